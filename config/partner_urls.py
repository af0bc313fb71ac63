"""Addresses of the partner systems' process: one prefix for each partner."""

from django.contrib import admin
from django.urls import include, path, register_converter
from django.utils.translation import gettext_lazy as _

from config.partner_edges import DateInPath, own_desk

register_converter(DateInPath, "date")

admin.site.site_header = admin.site.site_title = _("Partner systems")
admin.site.index_title = _("What they hold")
admin.site.site_url = "/"

urlpatterns = [
    path("", own_desk),
    path("admin/", admin.site.urls),
    path("insurer/", include("insurance.sandbox.urls")),
    path("points/", include("points.system.urls")),
]
