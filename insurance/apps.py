from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class Insurance(AppConfig):
    name = "insurance"
    verbose_name = _("insurance")
