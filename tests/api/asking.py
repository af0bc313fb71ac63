"""Asking the API as a merchant's program does, over Django's whole stack."""

import json
from datetime import date
from decimal import Decimal
from itertools import count
from typing import Any

from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from insurance.models import Insurer, Product
from issuing import keys
from issuing.models import Merchant
from tests import cards
from tests.contract import holding

_numbers = count(1)


class Asker:
    """A merchant's program: a client with a key, and a new Idempotency-Key for each POST unless told otherwise.

    Every answer that it gets is held against the contract.
    """

    def __init__(self, merchant: Merchant, text: str) -> None:
        self.merchant = merchant
        self.key = text
        self.client = Client(raise_request_exception=False)

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str) -> Any:
        given = {"Authorization": f"Bearer {self.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if method == "POST" and "Idempotency-Key" not in given:
            given["Idempotency-Key"] = f"key-{next(_numbers)}"
        given = {name: value for name, value in given.items() if value is not None}
        content_type = given.pop("Content-Type", "application/json")
        data = raw if raw is not None else (b"" if body is None else json.dumps(body).encode())
        path = path if path.startswith("/") else f"/api/v1/{path}"
        answer: Any = self.client.generic(method, path, data, content_type, headers=given)
        holding.holds(method, answer.request["PATH_INFO"], answer)
        return answer

    def get(self, path: str, **headers: str) -> Any:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.ask("POST", path, {} if body is None else body, **headers)


def insured(**facts: Any) -> Merchant:
    """A merchant whose cards an insurer covers at 1.2 %."""
    merchant = cards.merchant(**facts)
    insurer, _made = Insurer.objects.get_or_create(code="HUATAI", defaults={"name": "Huatai"})
    Product.objects.create(
        merchant=merchant,
        insurer=insurer,
        code="PI-1",
        annual_rate=Decimal("0.012"),
        valid_from_date=date(2025, 1, 1),
    )
    return merchant


def asker(merchant: Merchant, **facts: Any) -> Asker:
    _key, text = keys.make(merchant=merchant, name="till", now=timezone.now(), **facts)
    return Asker(merchant, text)


def without_id(response: HttpResponse) -> bytes:
    """The body, byte for byte, but for the id that every request has of its own."""
    return response.content.replace(response.headers["Request-Id"].encode(), b"")
