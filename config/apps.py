"""Two apps: the wiring itself, and Django's admin with our own door."""

from django.apps import AppConfig
from django.contrib.admin import apps
from django.utils.translation import gettext_lazy as _


class Config(AppConfig):
    name = "config"
    verbose_name = _("Staff")
    default = True


class BackOffice(apps.AdminConfig):
    default = False
    default_site = "config.signing_in.Site"
