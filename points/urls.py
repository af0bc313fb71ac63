"""Addresses of the merchant API for points and coupons, below /api/v1/."""

from django.urls import path

from points import views

urlpatterns = [
    path("coupon-products", views.CouponProducts.as_view()),
    path("exchange-quotes", views.ExchangeQuotes.as_view()),
    path("exchanges", views.Exchanges.as_view()),
    path("exchanges/<str:exchange_id>", views.OneExchange.as_view()),
    path("exchanges/<str:exchange_id>/returns", views.Returns.as_view()),
    path("coupons/redeem", views.Redemptions.as_view()),
]
