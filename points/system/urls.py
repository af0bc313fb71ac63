"""Addresses of the credit-card points system, below /points/."""

from django.urls import path

from points.system import views

app_name = "points_system"
urlpatterns = [
    path("", views.desk, name="desk"),
    path("messages", views.message, name="message"),
    path("statement/<date:accounting_date>", views.statement_file, name="statement"),
    path("behaviour", views.behaviour, name="behaviour"),
]
