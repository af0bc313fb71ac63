"""Addresses of the customer's page, and the one that the points system calls."""

from django.urls import path

from points import callback, pages

urlpatterns = [
    path("points/", pages.home, name="points-home"),
    path("points/sign-in", pages.sign_in, name="points-sign-in"),
    path("points/sign-out", pages.sign_out, name="points-sign-out"),
    path("points/balance", pages.balance, name="points-balance"),
    path("points/price", pages.price, name="points-price"),
    path("points/quotes", pages.quote, name="points-quotes"),
    path("points/quotes/<uuid:quote_id>", pages.quoted, name="points-quote"),
    path("points/quotes/<uuid:quote_id>/submit", pages.submit, name="points-submit"),
    path("points/exchanges/<uuid:exchange_id>", pages.exchanged, name="points-exchange"),
    path("points/exchanges/<uuid:exchange_id>/returns", pages.give_back, name="points-return"),
    path("partners/points/callback", callback.callback, name="points-callback"),
]
