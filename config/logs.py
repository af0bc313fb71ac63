"""One line of log for each request, and an id that ties all lines of a request together."""

import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponseBase

logger = structlog.get_logger("web")

_USABLE = re.compile(r"[A-Za-z0-9_-]{8,64}")


class RequestLog:
    """Gives each request its id (``request.request_id``, the header Request-Id) and writes its line when it is done.

    A proxy's own id is kept where it is harmless to write into a log.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _USABLE.fullmatch(given) else uuid.uuid4().hex
        request.request_id = request_id  # type: ignore[attr-defined]
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self.get_response(request)
            logger.info(
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                milliseconds=round((time.perf_counter() - started) * 1000),
            )
        response["Request-Id"] = request_id
        return response
