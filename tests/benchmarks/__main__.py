"""``python -m tests.benchmarks [name …]``: one table of figures, and exit code 1 if one does not reach."""

import argparse
import base64
import importlib
import os
import secrets
import socket
import subprocess
import sys
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.db import connections
from psycopg import sql

from config import embedded
from tests.benchmarks.measuring import table

NAMES = (
    "payment", "endpoint", "issuing", "claims", "enrolment", "scale", "lists", "pages", "memory", "points_system",
    "exchange",
    "redemption",
    "sweep",
    "exports",
)  # fmt: skip
# Two runs at a time would otherwise drop each other's house.
DATABASE = f"prepaid_benchmarks_{os.getpid()}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--share", type=float, default=1.0, help="do only this share of the full size (default 1)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    server = urlsplit(os.environ.get("DATABASE_URL") or embedded.join().database_url)
    os.environ["DATABASE_URL"] = urlunsplit(server._replace(path=f"/{DATABASE}"))
    os.environ["DEMO_SECRETS"] = "1"
    # Partners for this run alone, wherever the real ones are.
    os.environ["INSURER_URL"] = f"http://127.0.0.1:{free_port()}/insurer/"
    os.environ["INSURER_KEYS"] = base64.b64encode(secrets.token_bytes(32)).decode()
    os.environ["POINTS_SYSTEM_URL"] = f"http://127.0.0.1:{free_port()}/points/"
    os.environ["POINTS_SYSTEM_KEYS"] = base64.b64encode(secrets.token_bytes(32)).decode()
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    figures = []
    for name in arguments.names or NAMES:
        # Each begins with an empty house of its own, so that none is slowed by the rows of another.
        with psycopg.connect(urlunsplit(server), autocommit=True) as maker:
            maker.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
            maker.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        try:
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "--database", "owner", "--verbosity", "0"], check=True
            )
            figures += importlib.import_module(f"tests.benchmarks.{name}").measure(share=arguments.share)
        finally:
            connections.close_all()
            with psycopg.connect(urlunsplit(server), autocommit=True) as maker:
                maker.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
    print(table(figures))
    return 0 if all(figure.reaches is not False for figure in figures) else 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
