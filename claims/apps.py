from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class Claims(AppConfig):
    name = "claims"
    verbose_name = _("claims")
