"""Addresses that the insurer calls."""

from django.urls import path

from insurance import views

app_name = "insurance"
urlpatterns = [path("partners/insurer/callback", views.callback, name="insurer-callback")]
