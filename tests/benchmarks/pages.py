"""What staff open and merchants list, among 1,000,000 cards beside among 10,000: nothing grows with the house."""

import logging
import os
from collections.abc import Callable
from statistics import median
from time import perf_counter

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import reverse  # noqa: E402

from insurance.models import Product  # noqa: E402
from issuing import keys  # noqa: E402
from issuing.models import Merchant  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks import filling  # noqa: E402
from tests.benchmarks.issuing import insured_program  # noqa: E402
from tests.benchmarks.measuring import Figure  # noqa: E402

FEW, MANY = 10_000, 1_000_000
TIMES = 7


def measure(*, share: float) -> list[Figure]:
    few, many = int(FEW * share), int(MANY * share)
    program = insured_program()
    product = Product.objects.get().pk
    logging.disable(logging.INFO)  # a line for every request would hide the table
    call_command("collectstatic", interactive=False, verbosity=0)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner:
        filling.fill(owner, program, count=few, at=cards.OPENED, product=product)
        pages = _pages(program.merchant)
        among_few = {name: _seconds(ask) for name, ask in pages.items()}
        filling.fill(owner, program, first=few + 1, count=many, at=cards.OPENED, product=product)
    among_many = {name: _seconds(ask) for name, ask in pages.items()}
    return [
        Figure(
            "pages", f"{name} among {many:,}", among_many[name] * 1000, f"among {few:,}", among_few[name] * 1000,
            at_most=2, unit=" ms",
        )
        for name in pages
    ]  # fmt: skip


def _pages(merchant: Merchant) -> dict[str, Callable[[], object]]:
    staff = Client(HTTP_HOST="localhost")
    staff.force_login(User.objects.create_superuser("lead"))
    _key, text = keys.make(merchant=merchant, name="pages", now=cards.NOW)
    shop = Client(HTTP_HOST="localhost", HTTP_AUTHORIZATION=f"Bearer {text}")

    def page(name: str, *arguments: object, **query: str) -> Callable[[], object]:
        return lambda: staff.get(reverse(f"admin:{name}", args=arguments), query)

    def search(text: str) -> Callable[[], object]:
        return lambda: staff.post(reverse("admin:search"), {"text": text})

    card = filling.card_id(1)
    return {
        "the first page": page("index"),
        "the cards": page("prepaid_card_changelist"),
        "the cards that are frozen": page("prepaid_card_changelist", state__exact="FROZEN"),
        "a card by its last four": page("prepaid_card_changelist", q="0000"),
        "a card's page": page("prepaid_card_change", card),
        "a search for a reference": search("PUR-1"),
        "a search for a policy": search("POL-1"),
        "the transactions": page("prepaid_transaction_changelist"),
        "the policies": page("insurance_policy_changelist"),
        "GET /cards": lambda: shop.get("/api/v1/cards"),
        "GET /transactions": lambda: shop.get("/api/v1/transactions"),
    }


def _seconds(ask: Callable[[], object]) -> float:
    taken = []
    for _time in range(TIMES):
        start = perf_counter()
        answer = ask()
        taken.append(perf_counter() - start)
        assert answer.status_code in (200, 302), answer  # type: ignore[attr-defined]
    return median(taken)
