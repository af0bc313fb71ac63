"""What staff order and the clock does in their name: with the rights they have then, on the rows they may see then."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zoneinfo import ZoneInfo

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, QueryDict
from django.urls import resolve, reverse
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _

from config import audit
from config.errors import Refused
from config.models import Order

LEASE = 120
"""Seconds for which an order belongs to the worker that took it for one slice."""


class NotAllowedAnyMore(Refused):
    status = 403
    text = _("You may no longer do this: ask an administrator for the role.")


def house_of(kind: str) -> Any:
    """The admin page of a model, by its label such as ``prepaid.card``."""
    return admin.site._registry[apps.get_model(kind)]


def ordered_by(request: HttpRequest) -> dict[str, Any]:
    """What an order keeps of whoever made it."""
    return {
        "made_by": request.user,
        "language": translation.get_language() or settings.LANGUAGE_CODE,
        "time_zone": timezone.get_current_timezone_name(),
        "address": audit.came_from(request),
    }


def as_its_maker(order: Order, *, method: str = "GET", query: str = "") -> HttpRequest:
    """The request with which the maker of an order would ask for its list at this moment."""
    opts = apps.get_model(order.kind)._meta
    request = HttpRequest()
    request.method = method
    request.path = request.path_info = reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist")
    request.resolver_match = resolve(request.path)
    request.GET = QueryDict(query)
    # Read anew: rights that were taken away since, or the person, count no more.
    request.user = User.objects.get(pk=order.made_by_id)
    # The audit tells from where it was ordered; each of our proxies would have told it so.
    chain = ",".join([order.address] * settings.TRUSTED_PROXIES)
    request.META.update({"REMOTE_ADDR": order.address, "HTTP_X_FORWARDED_FOR": chain, "SERVER_NAME": "localhost"})
    request.META["SERVER_PORT"] = "80"
    return request


@contextmanager
def in_words_of(order: Order) -> Iterator[None]:
    """In the language and the time zone of an order's maker."""
    with translation.override(order.language), timezone.override(ZoneInfo(order.time_zone)):
        yield
