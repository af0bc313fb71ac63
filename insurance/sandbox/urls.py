"""Addresses of the reference insurer, below /insurer/."""

from django.urls import path

from insurance.sandbox import views

app_name = "insurer"
urlpatterns = [
    path("", views.desk, name="desk"),
    path("messages", views.message, name="message"),
    path("bordereau/<date:business_date>", views.bordereau_file, name="bordereau"),
    path("behaviour", views.behaviour, name="behaviour"),
]
