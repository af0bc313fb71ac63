"""100,000 cards enrolled one by one with the reference insurer: its process, its database, two workers beside it."""

import os
import subprocess
import sys

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from insurance.models import Policy, Product  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks import filling, partners  # noqa: E402
from tests.benchmarks.issuing import insured_program  # noqa: E402
from tests.benchmarks.measuring import Figure, seconds  # noqa: E402

CARDS = 100_000
WORKERS = 2
WANTED = 2_000

_WORKER = """
import django
django.setup()
from django.utils import timezone
from insurance import insurer
while insurer.sweep(now=timezone.now(), seconds=60):
    pass
"""


def measure(*, share: float) -> list[Figure]:
    size = int(CARDS * share)
    program = insured_program()
    product = Product.objects.get(merchant=program.merchant)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner, partners.served(settings.INSURER_URL):
        filling.fill(owner, program, count=size, at=cards.OPENED, product=product.pk)
        owner.execute(
            "UPDATE insurance_policy SET state = 'PENDING', policy_no = NULL, accepted_at = NULL, attempts = 0,"
            " due_at = %s",
            [timezone.now()],
        )
        owner.execute("VACUUM ANALYZE")
        taken = seconds(_work)
    assert Policy.objects.filter(state=Policy.State.ACCEPTED).count() == size
    return [Figure("enrolment", f"{size:,} cards", size / taken, "what is wanted", WANTED, at_least=1, unit=" cards/s")]


def _work() -> None:
    workers = [subprocess.Popen([sys.executable, "-c", _WORKER], cwd=partners.PROJECT) for _worker in range(WORKERS)]
    assert [worker.wait() for worker in workers] == [0] * WORKERS
