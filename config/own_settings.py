"""How one person reads the back office: language and time zone, kept with them and carried by their session."""

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django import forms
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _

from config.models import OwnSettings

CARRIED = "own_settings"

_NO_PLACE = ("Etc/", "posix/", "right/")
ZONES = sorted(name for name in available_timezones() if "/" in name and not name.startswith(_NO_PLACE))
"""Places, as the time zone database names them."""


class OwnForm(forms.Form):
    language = forms.ChoiceField(
        label=_("language"), required=False, choices=[("", _("as the browser has it")), *settings.LANGUAGES]
    )
    time_zone = forms.ChoiceField(
        label=_("time zone"),
        required=False,
        choices=[("", settings.TIME_ZONE), *((name, name) for name in ["UTC", *ZONES])],
        help_text=_("all times of the back office are shown in it; business dates stay those of the house"),
    )


def of(user: User) -> OwnSettings:
    return OwnSettings.objects.filter(user=user).first() or OwnSettings(user=user)


def carry(request: HttpRequest, own: OwnSettings) -> None:
    """Put them into the session, so that no page asks the database for them."""
    request.session[CARRIED] = {"language": own.language, "time_zone": own.time_zone}


def keep(request: HttpRequest, user: User, **chosen: str) -> None:
    """Change what somebody chose for themselves; what is not named stays."""
    own, _made = OwnSettings.objects.update_or_create(user=user, defaults=chosen)
    carry(request, own)


class InOnesOwnWay:
    """Pages of the back office in the language and the time zone of who is signed in."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.door = reverse("admin:index")

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path.startswith(self.door) or settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return self.get_response(request)
        own: dict[str, Any] = request.session.get(CARRIED) or {}
        if own.get("language"):
            translation.activate(own["language"])
            request.LANGUAGE_CODE = own["language"]
        with timezone.override(ZoneInfo(own["time_zone"]) if own.get("time_zone") else None):
            return self.get_response(request)
