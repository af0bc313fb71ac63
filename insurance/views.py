"""Where the insurer tells us what it could not answer at once."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from config import callbacks
from insurance import insurer


@csrf_exempt
@require_POST
def callback(request: HttpRequest) -> HttpResponse:
    """A signed message of the insurer's own."""
    return callbacks.answer(request, insurer.take_late_answer)
