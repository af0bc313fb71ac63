"""A file of 500,000 purchases imported and issued: how large the process that does it grows, and its database's."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import django

django.setup()

import psutil  # noqa: E402  Django's settings come first
import psycopg  # noqa: E402

from issuing.batches import COLUMNS  # noqa: E402
from tests.benchmarks.issuing import insured_program  # noqa: E402
from tests.benchmarks.measuring import Figure  # noqa: E402

PROJECT = Path(__file__).resolve().parent.parent.parent
PURCHASES = 500_000
ALLOWED = 400

_WORKER = """
import resource
import sys
import django
django.setup()
from django.contrib.auth.models import User
from config import tiers
from issuing import batches
from prepaid import processing
from tests import cards
maker, approver = (User.objects.create(username=name) for name in ("maker", "approver"))
with open(sys.argv[1], "rb") as source:
    batch = batches.stage(name="purchases.csv", source=source, made_by=maker, now=cards.NOW)
assert batch.bad_rows == 0 and batch.rows == int(sys.argv[2]), (batch.rows, batch.bad_rows, batch.problem)
batches.approve(batch=batch, by=tiers.let_decide(approver), now=cards.NOW)
while processing.issue_slice(batch=batch, now=cards.NOW):
    pass
assert batch.state == "ISSUED"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(*, share: float) -> list[Figure]:
    size = int(PURCHASES * share)
    program = insured_program()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "purchases.csv"
        with file.open("w", encoding="utf-8") as target:
            target.write(",".join(COLUMNS) + "\n")
            for number in range(size):
                target.write(
                    f"PUR-{number},{program.code},王小明,139{number:08d},12345.67,2026-05-01T10:00:00+08:00,WECHAT\n"
                )
        with _WatchedDatabase() as grown:
            command = [sys.executable, "-c", _WORKER, str(file), str(size)]
            said = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE).stdout
    worker = int(said.split()[-1]) / 1024  # kilobytes on Linux
    return [
        Figure("memory", f"importing and issuing {size:,}", worker, "allowed", ALLOWED, at_most=1, unit=" MB"),
        Figure("memory", "its database process", grown.most, "allowed", ALLOWED, at_most=1, unit=" MB"),
    ]


class _WatchedDatabase:
    """The most private memory of any process of the server that works for our database, where we can see it."""

    def __enter__(self) -> "_WatchedDatabase":
        self.most = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as looking:
            while not self.stop.wait(0.5):
                for (pid,) in looking.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                ).fetchall():
                    try:
                        memory = psutil.Process(pid).memory_info()
                    except psutil.Error:
                        continue  # it has ended, or the server is on another machine
                    self.most = max(self.most, (memory.rss - memory.shared) / 2**20)
