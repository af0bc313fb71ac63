from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class Issuing(AppConfig):
    name = "issuing"
    verbose_name = _("issuing")
