"""The credit-card points system as an app of the partner process."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class PointsSystem(AppConfig):
    name = "points.system"
    label = "points_system"
    verbose_name = _("Credit-card points system")
