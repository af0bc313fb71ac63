"""Addresses of the business side."""

from django.contrib import admin
from django.urls import include, path

from config import inbox
from config.api import nowhere
from config.health import healthz
from config.pages import home

urlpatterns = [
    path("", home),
    path("healthz", healthz),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin/inbox/", admin.site.admin_view(inbox.page), name="inbox"),
    path("admin/", admin.site.urls),
    path("api/v1", nowhere),
    path("api/v1/", include("points.urls")),
    path("api/v1/", include("prepaid.urls")),
    path("", include("insurance.urls")),
    path("", include("points.page_urls")),
]

handler400 = "config.api.bad_request"
handler404 = "config.api.not_found"
handler500 = "config.api.failure"
