"""What the drill does to a running product, and what must be true afterwards."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

import redis  # noqa: E402  models and settings exist only after setup
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.utils import timezone  # noqa: E402

from config import messages, tiers  # noqa: E402
from insurance import reconciliation as bordereau  # noqa: E402
from insurance.models import Policy  # noqa: E402
from issuing import batches  # noqa: E402
from issuing.models import Batch  # noqa: E402
from prepaid import reconciliation  # noqa: E402
from prepaid.models import Card, Load  # noqa: E402
from tests import invariants  # noqa: E402

SILENCES = ("SILENT_BEFORE", "SILENT_AFTER", "GARBLED", "PARTIAL", "DOWN", "SERVER_ERROR")


def deal(
    product: dict[str, Any],
    *,
    purchases: int,
    processes: Callable[[str], list[int]],
    kill: Callable[[str], int],
    patience: float,
) -> list[str]:
    """Issue and enrol ``purchases`` cards under blows; what is wrong afterwards, nothing if all is well."""
    before = Card.objects.count()
    batch = _approved(purchases)
    blows = {
        "kill a worker": lambda: kill("config.celery --quiet worker"),
        "kill a web process": lambda: kill("config.wsgi:application"),
        "empty Redis": lambda: redis.Redis.from_url(settings.REDIS_URL).flushall(),
        "kill the clock": lambda: kill("config.celery --quiet beat"),
        "kill the partners": lambda: kill("config.partner_wsgi:application"),
    }
    silences = iter(SILENCES * 100)
    dealt = 0
    until = time.monotonic() + patience
    while not _is_finished(batch) and time.monotonic() < until:
        batch.refresh_from_db()
        accepted = Policy.objects.filter(card__batch=batch, state=Policy.State.ACCEPTED).count()
        print(f"  {batch.issued_rows:,} of {purchases:,} issued, {accepted:,} enrolled", flush=True)
        if dealt < 3 * len(blows):
            for name, blow in list(blows.items())[dealt % len(blows) :][:1]:
                print(f"  {name}: {blow()}", flush=True)
            if dealt % 2 == 0:
                _misbehave(next(silences))
            dealt += 1
        time.sleep(2)
    return [*_wrongs(batch, before=before, purchases=purchases)]


def _approved(purchases: int) -> Batch:
    maker = User.objects.create_user("drill-maker")
    checker = tiers.let_decide(User.objects.create_user("drill-checker"))
    program = Load.objects.filter(card__kind="BONUS", card__program__named=True).first().card.program.code  # type: ignore[union-attr]
    lines = [",".join(batches.COLUMNS)]
    lines += [
        f"DRILL-{n:06d},{program},王芳,199{n:08d},{1000 + n % 9000}.{n % 100:02d},2026-03-01T10:00:00+08:00,CARD"
        for n in range(purchases)
    ]
    batch = batches.stage(
        name="drill.csv", source=BytesIO("\n".join(lines).encode()), made_by=maker, now=timezone.now()
    )
    batches.approve(batch=batch, by=checker, now=timezone.now())
    return batch


def _is_finished(batch: Batch) -> bool:
    batch.refresh_from_db()
    return batch.state == Batch.State.ISSUED and not (
        Policy.objects.filter(card__batch=batch).exclude(state=Policy.State.ACCEPTED).exists()
    )


def _misbehave(kind: str) -> None:
    now = timezone.now()
    question = messages.compose(
        keys=settings.INSURER_KEYS,
        type="BEHAVIOUR",
        request_no=messages.new_request_no(),
        body={"kind": kind, "remaining": 2},
        now=now,
        business_date=now.date(),
    )
    reply = messages.send(url=f"{settings.INSURER_URL}behaviour", question=question)
    print(f"  the insurer is {kind}: {reply.status}", flush=True)


def _wrongs(batch: Batch, *, before: int, purchases: int) -> Iterator[str]:
    if batch.state != Batch.State.ISSUED or batch.issued_rows != purchases or batch.bad_rows:
        yield f"the batch is {batch.state} with {batch.issued_rows} rows issued and {batch.bad_rows} refused"
    cards = Card.objects.filter(batch=batch).count()
    if cards != purchases or Card.objects.count() != before + purchases:
        yield f"{cards} cards for {purchases} purchases"
    states = {state: Policy.objects.filter(card__batch=batch, state=state).count() for state in Policy.State.values}
    if states[Policy.State.ACCEPTED] != purchases:
        yield f"policies by state: {states}"
    for name, rows in invariants.wrongs().items():
        yield f"{name}: {rows[:3]}"
    # As it will be done tomorrow: a day is reconciled once it is over.
    today, tomorrow = reconciliation.business_date(timezone.now()), timezone.now() + timedelta(days=1)
    for run in (
        reconciliation.ledger_day(business_date=today, now=tomorrow),
        bordereau.bordereau_day(business_date=today, now=tomorrow),
    ):
        print(f"  {run.partner} {run.business_date}: {run.state}, {run.compared:,} compared", flush=True)
        if run.state != "DONE" or run.breaks.exists():
            yield f"{run.partner}: {run.state} {run.problem} {list(run.breaks.values_list('type', 'subject')[:5])}"
