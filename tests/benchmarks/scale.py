"""A payment among 1,000,000 cards beside one among 10,000: the bare function, so that nothing dilutes a difference."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from time import perf_counter
from urllib.parse import urlsplit, urlunsplit

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from psycopg import sql  # noqa: E402

from config.ids import new_id  # noqa: E402
from issuing.models import CardProgram, Kind  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks import filling  # noqa: E402
from tests.benchmarks.measuring import Figure, take_turns  # noqa: E402

FEW, MANY = 10_000, 1_000_000
_numbers = count(1)


def measure(*, share: float) -> list[Figure]:
    few, many = int(FEW * share), int(MANY * share)
    program = cards.program(Kind.BONUS)
    with _copy_of_the_house() as other:
        for url, size in ((other, few), (os.environ["DATABASE_URL"], many)):
            with psycopg.connect(url, autocommit=True) as owner:
                filling.fill(owner, program, count=size, at=cards.OPENED)
        rates = take_turns(
            {"few": _payments(other, program, few), "many": _payments(os.environ["DATABASE_URL"], program, many)},
            count=1000,
            rounds=9,
        )
    # A rate at most 1.2 times lower is a cost at most 1.2 times higher.
    return [
        Figure("scale", f"paying among {many:,} cards", rates["many"], f"among {few:,}", rates["few"], at_least=1 / 1.2)
    ]


def _payments(url: str, program: CardProgram, size: int) -> Callable[[int], float]:
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("SET ROLE prepaid_app")
    # The disk's own time is the same for both and would only hide what is not.
    connection.execute("SET synchronous_commit = off")
    chosen = random.Random(1)  # the same cards every time it is run

    def subject(payments: int) -> float:
        cursor = connection.cursor()
        start = perf_counter()
        for _payment in range(payments):
            cursor.execute(
                "SELECT * FROM ledger_pay(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    new_id(), program.merchant_id, filling.card_id(chosen.randint(1, size)), 100, None,
                    f"S{next(_numbers)}", "", None, "", cards.NOW, cards.NOW,
                ),
            )  # fmt: skip
            assert cursor.fetchone()[0] is None  # type: ignore[index]  one row always
        return perf_counter() - start

    return subject


@contextmanager
def _copy_of_the_house() -> Iterator[str]:
    """A second database with the same tables and the same program, still without cards."""
    server = urlsplit(os.environ["DATABASE_URL"])
    name = server.path[1:]
    copy = f"{name}_few"
    django.db.connections.close_all()
    with psycopg.connect(urlunsplit(server._replace(path="/postgres")), autocommit=True) as maker:
        maker.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(copy)))
        maker.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(copy), sql.Identifier(name)))
        try:
            yield urlunsplit(server._replace(path=f"/{copy}"))
        finally:
            maker.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(copy)))
