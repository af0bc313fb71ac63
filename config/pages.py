"""What a browser is told on every page, and the page at the root."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse

STRICT = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
    "img-src 'self' data:"
)
# The admin's theme is built on Alpine, which evaluates what stands in attributes, and sets styles in place.
ADMIN = STRICT + "; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"


class ContentSecurityPolicy:
    """Nothing is fetched from outside: strict everywhere, with what its theme needs in the admin."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        policy = ADMIN if request.path.startswith("/admin/") else STRICT
        response.headers.setdefault("Content-Security-Policy", policy)
        return response


def home(request: HttpRequest) -> HttpResponse:
    """The way in: the back office and the merchant API's documents."""
    try:
        api_docs = reverse("api-docs")
    except NoReverseMatch:
        api_docs = ""
    return render(request, "home.html", {"api_docs": api_docs})
