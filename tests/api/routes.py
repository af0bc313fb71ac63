"""Every address of the merchant API, read off the addresses that are served: a new one cannot be forgotten."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RoutePattern

PREFIX = "api/v1/"


class Route(NamedTuple):
    """``route`` is written as in the URL conf: ``cards/<str:card_id>``."""

    route: str
    view: Any
    """The class, or None for a plain page."""

    @property
    def methods(self) -> list[str]:
        return [method for method in ("get", "post") if hasattr(self.view, method)]


def _walked(resolver: URLResolver, before: str) -> Iterator[Route]:
    for pattern in resolver.url_patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walked(pattern, route)
        elif isinstance(pattern, URLPattern) and route.startswith(PREFIX) and isinstance(pattern.pattern, RoutePattern):
            yield Route(route.removeprefix(PREFIX), getattr(pattern.callback, "view_class", None))


ROUTES = list(_walked(get_resolver(), ""))
PAGES = [route for route in ROUTES if route.view is None]
SANDBOX = [route for route in ROUTES if getattr(route.view, "is_for_tests", False)]
"""Those that only test merchants have."""
ENDPOINTS = [route for route in ROUTES if route.view is not None and route not in SANDBOX]
