"""The payment verb beside the bare SQL function, beside plain ORM statements, and beside django-hordak."""
# ruff: noqa: DJ008  nobody reads the rows of a throw-away table

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count, cycle
from pathlib import Path
from time import perf_counter
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.db import connections, models, transaction  # noqa: E402
from psycopg import sql  # noqa: E402

from config.ids import new_id  # noqa: E402
from issuing.models import Kind  # noqa: E402
from prepaid import ledger  # noqa: E402
from prepaid.models import Card  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks.measuring import Figure, take_turns  # noqa: E402

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
CARDS = 200
PRICE = 100
BALANCE = 10_000_000

_numbers = count(1)


class PlainCard(models.Model):
    """What a ledger without functions would begin as; its tables are made for the benchmark and dropped with it."""

    merchant = models.UUIDField()
    state = models.CharField(max_length=11, default="ACTIVE")

    class Meta:
        app_label = "benchmarks"


class PlainSubCard(models.Model):
    card = models.ForeignKey(PlainCard, models.PROTECT)
    seq = models.PositiveSmallIntegerField()
    remaining = models.BigIntegerField()

    class Meta:
        app_label = "benchmarks"
        constraints: ClassVar = [
            models.CheckConstraint(name="plain_never_below_zero", condition=models.Q(remaining__gte=0))
        ]


class PlainTransaction(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id)
    card = models.ForeignKey(PlainCard, models.PROTECT)
    merchant = models.UUIDField()
    amount = models.BigIntegerField()
    reference = models.CharField(max_length=64)
    occurred_at = models.DateTimeField()

    class Meta:
        app_label = "benchmarks"
        constraints: ClassVar = [models.UniqueConstraint("merchant", "reference", name="plain_one_per_reference")]


class PlainEntry(models.Model):
    transaction = models.ForeignKey(PlainTransaction, models.PROTECT)
    sub_card = models.ForeignKey(PlainSubCard, models.PROTECT)
    amount = models.BigIntegerField()
    balance_after = models.BigIntegerField()

    class Meta:
        app_label = "benchmarks"


def measure(*, share: float) -> list[Figure]:
    # No commit waits for the disk: its time is the same for all four and would only hide what is not.
    os.environ["PGOPTIONS"] = "-c synchronous_commit=off"
    try:
        return _measure(share)
    finally:
        del os.environ["PGOPTIONS"]


def _measure(share: float) -> list[Figure]:
    opened = _open_cards()
    with _hordak() as hordak:
        rates = take_turns(
            {"verb": _verb(opened), "bare": _bare(opened), "orm": _orm(), "hordak": hordak},
            count=max(100, int(600 * share)),
            rounds=max(3, int(9 * share)),
        )
    return [
        Figure("payment", "ledger.pay", rates["verb"], "the bare SQL function", rates["bare"], at_least=0.7),
        Figure("payment", "ledger.pay", rates["verb"], "5 plain ORM statements", rates["orm"], at_least=5),
        Figure("payment", "ledger.pay", rates["verb"], "django-hordak 2.0.0", rates["hordak"], at_least=10),
    ]


def _open_cards() -> list[Card]:
    program = cards.program(Kind.BONUS, card_limit=BALANCE // 3)
    openings = [cards.opening(program, BALANCE) for _card in range(CARDS)]
    ledger.open_cards(openings, now=cards.OPENED)
    return list(Card.objects.all())


def _timed(pay: Callable[[], object]) -> Callable[[int], float]:
    def subject(payments: int) -> float:
        start = perf_counter()
        for _payment in range(payments):
            pay()
        return perf_counter() - start

    return subject


def _verb(opened: list[Card]) -> Callable[[int], float]:
    turn = cycle([(card.pk, card.merchant_id) for card in opened])

    def pay() -> None:
        card_id, merchant_id = next(turn)
        ledger.pay(
            merchant_id=merchant_id,
            card_id=card_id,
            list_amount=PRICE,
            reference=f"V{next(_numbers)}",
            occurred_at=cards.NOW,
            now=cards.NOW,
        )

    return _timed(pay)


def _bare(opened: list[Card]) -> Callable[[int], float]:
    """The function called from Python by the driver alone, on a connection of the same kind."""
    turn = cycle([(card.pk, card.merchant_id) for card in opened])
    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    connection.execute("SET ROLE prepaid_app")
    cursor = connection.cursor()
    now: datetime = cards.NOW

    def pay() -> None:
        card_id, merchant_id = next(turn)
        cursor.execute(
            "SELECT * FROM ledger_pay(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (new_id(), merchant_id, card_id, PRICE, None, f"B{next(_numbers)}", "", None, "", now, now),
        )
        refusal, *_facts = cursor.fetchone()  # type: ignore[misc]  one row always
        assert refusal is None

    return _timed(pay)


def _orm() -> Callable[[int], float]:
    """Lock the card, read its sub-cards, write the one drawn from, the transaction and the entry."""
    with connections["owner"].schema_editor() as editor:
        for model in (PlainCard, PlainSubCard, PlainTransaction, PlainEntry):
            editor.create_model(model)
    merchant = new_id()
    made = [PlainCard.objects.create(merchant=merchant) for _card in range(CARDS)]
    PlainSubCard.objects.bulk_create(
        PlainSubCard(card=card, seq=seq, remaining=BALANCE // 3) for card in made for seq in (1, 2, 3)
    )
    turn = cycle([card.pk for card in made])

    def pay() -> None:
        with transaction.atomic():
            card = PlainCard.objects.select_for_update().get(pk=next(turn), merchant=merchant)
            assert card.state == "ACTIVE"
            part = PlainSubCard.objects.filter(card=card, remaining__gt=0).order_by("seq")[0]
            part.remaining -= PRICE
            part.save(update_fields=["remaining"])
            paid = PlainTransaction.objects.create(
                card=card, merchant=merchant, amount=-PRICE, reference=f"O{next(_numbers)}", occurred_at=cards.NOW
            )
            PlainEntry.objects.create(transaction=paid, sub_card=part, amount=-PRICE, balance_after=part.remaining)

    return _timed(pay)


@contextmanager
def _hordak() -> Iterator[Callable[[int], float]]:
    """django-hordak in a process, a virtual environment and a database of its own."""
    folder = PROJECT / "var" / "benchmarks"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--quiet", "-r", HERE / "requirements.txt"], check=True
        )
    server = urlsplit(os.environ["DATABASE_URL"])
    name = f"{server.path[1:]}_hordak"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as maker:
        maker.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        maker.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = urlunsplit(server._replace(path=f"/{name}"))
    process = subprocess.Popen(
        [python, HERE / "hordak_reference.py", url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    say, hear = process.stdin, process.stdout
    assert hear.readline() == "ready\n"

    def subject(payments: int) -> float:
        say.write(f"{payments}\n")
        say.flush()
        return float(hear.readline())

    try:
        yield subject
    finally:
        say.close()
        process.wait()
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as maker:
            maker.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
