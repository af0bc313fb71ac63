"""A bare view: what is the least that an answer over HTTP costs which changes one row."""

import json

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from config.ids import new_id


@csrf_exempt
def bare(request: HttpRequest) -> HttpResponse:
    """One conditional UPDATE of one row, and nothing else."""
    asked = json.loads(request.body)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE points_coupon SET state = 'REDEEMED', redeemed_at = %s, redeemed_reference = %s"
            " WHERE code_hash = %s AND state = 'ACTIVE'",
            [timezone.now(), asked["reference"], asked["hash"]],
        )
        return HttpResponse(status=200 if cursor.rowcount else 409)


@csrf_exempt
def bare_payment(request: HttpRequest) -> HttpResponse:
    """One call of the ledger's function, and nothing else."""
    asked = json.loads(request.body)
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT refusal FROM ledger_pay(%s, %s, %s, 100, NULL, %s, '', %s, '', %s, %s)",
            [new_id(), asked["merchant"], asked["card"], asked["reference"], asked["reference"], now, now],
        )
        return HttpResponse(status=409 if cursor.fetchone()[0] else 200)


urlpatterns = [path("bare", bare), path("bare/payment", bare_payment), path("", include("config.urls"))]
