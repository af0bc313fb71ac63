"""Where a partner tells us what it could not answer at once."""

from collections.abc import Callable, Mapping

from django.http import HttpRequest, HttpResponse

from config import messages

MOST_BYTES = 256 * 1024

Take = Callable[..., tuple[bytes, dict[str, str]]]


def answer(request: HttpRequest, take: Take) -> HttpResponse:
    """Hand a message of the partner's own to ``take(raw=…, headers=…)`` and answer with what it gives.

    What is not signed by the partner gets no answer but the status.
    """
    if len(request.body) > MOST_BYTES:
        return HttpResponse(status=413)
    signed: Mapping[str, str] = request.headers
    try:
        raw, headers = take(raw=request.body, headers=signed)
    except messages.Mistrusted:
        return HttpResponse(status=401)
    return HttpResponse(raw, headers=headers)
