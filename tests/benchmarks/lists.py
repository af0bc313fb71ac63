"""Page 10,000 of the API's lists beside page 1, each asked for as a merchant's program does, over the whole stack."""

import logging
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.conf import settings  # noqa: E402
from django.core.signing import Signer  # noqa: E402

from insurance.models import Policy, Product  # noqa: E402
from issuing.models import Kind  # noqa: E402
from prepaid.models import Card, Transaction  # noqa: E402
from tests import cards  # noqa: E402
from tests.api.asking import Asker, asker, insured  # noqa: E402
from tests.benchmarks import filling  # noqa: E402
from tests.benchmarks.measuring import Figure, take_turns  # noqa: E402

PAGES, ROWS = 10_000, 20
LISTS: dict[str, Any] = {"cards": Card, "transactions": Transaction, "policies": Policy}


def measure(*, share: float) -> list[Figure]:
    pages = int(PAGES * share)
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.RATE_LIMITS = dict.fromkeys(settings.RATE_LIMITS, 10**9)
    logging.disable(logging.INFO)
    merchant = insured()
    program = cards.program(Kind.BONUS, merchant=merchant)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner:
        product = Product.objects.get(merchant=merchant).pk
        filling.fill(owner, program, count=(pages + 100) * ROWS, at=cards.OPENED, product=product)
    program_of = asker(merchant)
    figures = []
    for name, model in LISTS.items():
        # The cursor that the page before gave out, without asking for ten thousand pages.
        at = (pages - 1) * ROWS - 1
        last = model.objects.order_by("-pk").values_list("pk", flat=True)[at]
        place = [merchant.pk.hex, f"/api/v1/{name}"]
        cursor = Signer(salt="config.api.cursor").sign_object([place, {"limit": str(ROWS)}, last.hex])
        rates = take_turns(
            {
                "first": _asked(program_of, f"{name}?limit={ROWS}"),
                "far": _asked(program_of, f"{name}?cursor={cursor}"),
            },
            count=20,
            rounds=9,
        )
        # At most 1.5 times the time of the first.
        figures.append(
            Figure("lists", f"page {pages:,} of {name}", rates["far"], "page 1", rates["first"], at_least=1 / 1.5)
        )
    logging.disable(logging.NOTSET)
    return figures


def _asked(program: Asker, path: str) -> Callable[[int], float]:
    def subject(times: int) -> float:
        start = perf_counter()
        for _time in range(times):
            answer = program.get(path)
            assert (answer.status_code, len(answer.json()["data"])) == (200, ROWS)
        return perf_counter() - start

    return subject
