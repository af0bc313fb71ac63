"""Redeeming coupons over HTTP beside a bare view that makes one conditional UPDATE, at the same server."""

import json
import os
from collections.abc import Callable
from itertools import count

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.utils import timezone  # noqa: E402

from config.ids import new_id  # noqa: E402
from issuing import keys  # noqa: E402
from points import codes, exchange  # noqa: E402
from points.models import Exchange  # noqa: E402
from tests import points_world as world  # noqa: E402
from tests.benchmarks import web  # noqa: E402
from tests.benchmarks.measuring import Figure, take_turns  # noqa: E402

WANTED = 0.25
PER_EXCHANGE = 10_000

_numbers = count(1)


def measure(*, share: float) -> list[Figure]:
    each, rounds = max(100, int(400 * share)), max(3, int(9 * share))
    tea = world.product(most_per_order=PER_EXCHANGE)
    world.ratio(tea, "1")
    _key, text = keys.make(merchant=tea.merchant, name="till", now=timezone.now())
    # Each subject has its own coupons: as many as it will use, and the warm-up's.
    needed = each * rounds + each // 5 + 1
    mine, bare = _coupons(tea, needed), _coupons(tea, needed)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner:
        owner.execute("VACUUM ANALYZE")
    with web.served(workers=1, threads=2) as port:
        rates = take_turns({"redeem": _redeem(port, text, mine), "bare": _bare(port, bare)}, count=each, rounds=rounds)
    return [
        Figure(
            "redemption", "coupons redeemed over HTTP", rates["redeem"], "a bare view's one UPDATE", rates["bare"],
            at_least=WANTED,
        )
    ]  # fmt: skip


def _coupons(tea: object, wanted: int) -> list[tuple[str, str]]:
    """So many coupons: code and hash."""
    made: list[tuple[str, str]] = []
    while len(made) < wanted:
        row = world.submitted(world.quote(tea, PER_EXCHANGE))  # type: ignore[arg-type]
        world.sent(row)
        taken = exchange.Deducted(new_id().hex, row.points, timezone.localdate().isoformat())
        exchange.issue(exchange=row, deducted=taken, now=timezone.now())
        held = Exchange.objects.get(pk=row.pk).coupons.values_list("code_sealed", "code_hash")
        made += [(codes.VAULT.unseal(sealed), hashed) for sealed, hashed in held]
    return made[:wanted]


def _asking(port: int, questions: Callable[[int], list[bytes]]) -> Callable[[int], float]:
    """On one connection; what the asker does to compose a request is not the server's affair."""
    return lambda wanted: web.ask(port, questions(wanted), clients=1, status=b"200")[0]


def _redeem(port: int, key: str, coupons: list[tuple[str, str]]) -> Callable[[int], float]:
    def questions(wanted: int) -> list[bytes]:
        asked = []
        for _turn in range(wanted):
            code, _hash = coupons.pop()
            reference = f"TILL-{next(_numbers)}"
            body = {"code": code, "reference": reference, "store": "S-01"}
            lines = (f"Authorization: Bearer {key}", f"Idempotency-Key: {reference}")
            asked.append(web.request("/api/v1/coupons/redeem", json.dumps(body).encode(), *lines))
        return asked

    return _asking(port, questions)


def _bare(port: int, coupons: list[tuple[str, str]]) -> Callable[[int], float]:
    def questions(wanted: int) -> list[bytes]:
        return [
            web.request("/bare", json.dumps({"hash": coupons.pop()[1], "reference": f"BARE-{next(_numbers)}"}).encode())
            for _turn in range(wanted)
        ]

    return _asking(port, questions)
