"""A list of 1,000,000 cards as a file: how large the process that writes it grows, and how fast it is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.contrib.auth.models import User  # noqa: E402

from insurance.models import Product  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks import filling  # noqa: E402
from tests.benchmarks.issuing import insured_program  # noqa: E402
from tests.benchmarks.measuring import Figure  # noqa: E402

PROJECT = Path(__file__).resolve().parent.parent.parent
ROWS = 1_000_000
ALLOWED = 200

_WORKER = """
import resource
import sys
from time import perf_counter
import django
django.setup()
from django.utils import timezone
from config import exports
from config.models import Export
from django.contrib.auth.models import User
export = Export.objects.create(
    kind="prepaid.card", format=sys.argv[1], made_by=User.objects.get(), language="en", time_zone="Asia/Shanghai"
)
start = perf_counter()
while exports.write_slice(export, now=timezone.now()):
    pass
export.refresh_from_db()
assert (export.state, export.rows) == ("DONE", int(sys.argv[2])), (export.state, export.rows, export.problem)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, perf_counter() - start)
"""


def measure(*, share: float) -> list[Figure]:
    size = int(ROWS * share)
    program = insured_program()
    User.objects.create_superuser("lead")
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner:
        filling.fill(owner, program, count=size, at=cards.OPENED, product=Product.objects.get().pk)
    figures = []
    for format in ("CSV", "XLSX"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", _WORKER, format, str(size)]
            environment = {**os.environ, "VAR_DIR": folder}
            said = subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.PIPE).stdout
        memory, seconds = said.split()[-2:]
        figures += [
            Figure("exports", f"{size:,} cards as {format}", int(memory) / 1024, "allowed", ALLOWED, at_most=1,
                   unit=" MB"),
            Figure("exports", f"{size:,} cards as {format}", size / float(seconds), "", 1),
        ]  # fmt: skip
    return figures
