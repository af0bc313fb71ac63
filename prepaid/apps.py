from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class Prepaid(AppConfig):
    name = "prepaid"
    verbose_name = _("prepaid cards")
