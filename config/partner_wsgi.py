"""The partner process's entry, served by granian; signed messages are answered before anything made for pages."""

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import cast
from wsgiref.types import StartResponse, WSGIEnvironment

from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIRequest
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import resolve

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.partner_settings")
pages = get_wsgi_application()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A message needs no session, language or staff, nor Django's signals around a request."""
    if not environ["PATH_INFO"].endswith("/messages"):
        return pages(environ, start_response)
    response = _answered(WSGIRequest(environ))
    status = f"{response.status_code} {response.reason_phrase}"
    if isinstance(response, HttpResponse):
        start_response(status, [*response.items(), ("content-length", str(len(response.content)))])
        return [response.content]
    start_response(status, list(response.items()))
    return response


def _answer(request: HttpRequest) -> HttpResponseBase:
    try:
        return _view(request.path_info)(request)
    finally:
        # As Django does when it has closed an answer: the one thing its signals are for here.
        close_old_connections()


_answered = cast(Callable[[HttpRequest], HttpResponse | StreamingHttpResponse], convert_exception_to_response(_answer))


@lru_cache(maxsize=16)
def _view(path: str) -> Callable[[HttpRequest], HttpResponseBase]:
    """Whoever takes the messages at an address; those that take none are not remembered."""
    view: Callable[[HttpRequest], HttpResponseBase] = resolve(path).func
    return view
