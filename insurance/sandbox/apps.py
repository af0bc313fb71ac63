"""The reference insurer as an app of the partner process."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ReferenceInsurer(AppConfig):
    name = "insurance.sandbox"
    label = "insurer"
    verbose_name = _("Reference insurer")
