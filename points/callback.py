"""Where the points system tells us what it could not answer at once."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from config import callbacks
from points import bank


@csrf_exempt
@require_POST
def callback(request: HttpRequest) -> HttpResponse:
    """A signed message of the points system's own."""
    return callbacks.answer(request, bank.take_late_answer)
