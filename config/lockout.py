"""Who tries passwords or codes is locked out: by name after ten, by address after thirty wrong ones."""

from typing import Any

from axes.backends import AxesStandaloneBackend
from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.db.models import Sum
from django.http import HttpRequest

FROM_ONE_ADDRESS = 3
"""So many times the failures of one name: behind one address a whole office sits."""


class Attempts(AxesDatabaseHandler):
    def get_failures(self, request: HttpRequest, credentials: dict[str, Any] | None = None) -> int:
        by_name, by_address = (
            attempts.aggregate(wrong=Sum("failures_since_start"))["wrong"] or 0
            for attempts in self.get_user_attempts(request, credentials)
        )
        return max(by_name, by_address // FROM_ONE_ADDRESS)

    def reset_user_attempts(self, request: HttpRequest, credentials: dict[str, Any] | None = None) -> int:
        # Not those of the address: else whoever has one account of his own could guess at all others for ever.
        name = (credentials or {}).get("username")
        return AccessAttempt.objects.filter(username=name).delete()[0]


class Backend(AxesStandaloneBackend):
    """Refuses whoever is locked out, before a password is looked at."""

    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> None:
        # Without a request nobody knocks at a door: a command or a test asks whether a password is right.
        if request is not None:
            super().authenticate(request, **credentials)


def minutes() -> int:
    return int(settings.AXES_COOLOFF_TIME.total_seconds() // 60)
