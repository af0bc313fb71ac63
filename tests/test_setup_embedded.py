"""The servers that come with the program: there when somebody needs them, gone when nobody does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from config import embedded

USER = """
import json, sys
from dataclasses import asdict
from config import embedded
print(json.dumps(asdict(embedded.join())), flush=True)
sys.stdin.read()
"""
REMOVER = "from config import embedded; embedded.remove(patience=2)"


class Folder:
    """A folder for embedded servers, and the processes that use them."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.users: list[subprocess.Popen[str]] = []

    def start(self, program: str = USER) -> "subprocess.Popen[str]":
        user = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "VAR_DIR": str(self.var)},
            cwd=embedded.PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.users.append(user)
        return user

    def servers(self) -> list[psutil.Process]:
        """Keeper, PostgreSQL and Valkey of this folder, as far as they run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if any(word.startswith(str(self.var)) for word in words) or (
                    "valkey-server" in "".join(words) and process.cwd().startswith(str(self.var))
                ):
                    found.append(process)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path / "var")
    yield folder
    for user in folder.users:
        user.kill()
        user.communicate()
    eventually(lambda: folder.servers() == [])


def eventually(is_so: Callable[[], object], *, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


def told(user: "subprocess.Popen[str]") -> dict[str, str]:
    assert user.stdout is not None
    return json.loads(user.stdout.readline())


def value(url: str, question: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(question).fetchone()
        assert row is not None
        return row[0]


def test_two_that_start_at_once_share_the_servers_until_the_last_has_left(folder):
    first, second = folder.start(), folder.start()
    addresses = told(first)
    assert told(second) == addresses
    assert value(addresses["database_url"], "SELECT current_database()") == "prepaid"
    assert value(addresses["partners_database_url"], "SELECT current_database()") == "partners"
    assert redis.Redis.from_url(addresses["redis_url"]).ping()

    first.communicate()
    time.sleep(1)  # four times as long as the keeper takes to look round
    assert value(addresses["database_url"], "SELECT 1") == 1

    second.kill()
    eventually(lambda: folder.servers() == [])


def test_data_outlive_their_users_and_a_dead_server_is_started_again(folder):
    user = folder.start()
    addresses = told(user)
    with psycopg.connect(addresses["database_url"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    for server in folder.servers():
        if "keeper" not in " ".join(server.cmdline()):
            with suppress(psutil.NoSuchProcess):
                server.kill()

    def answers_again() -> bool:
        with suppress(psycopg.Error, redis.RedisError):
            return bool(
                value(addresses["database_url"], "SELECT answer FROM kept") == 42
                and redis.Redis.from_url(addresses["redis_url"]).ping()
            )
        return False

    eventually(answers_again)
    user.communicate()
    eventually(lambda: folder.servers() == [])
    assert value(told(folder.start())["database_url"], "SELECT answer FROM kept") == 42


def test_the_servers_do_not_outlive_their_keeper(folder):
    told(folder.start())
    (keeper,) = [server for server in folder.servers() if "config.keeper" in server.cmdline()]
    keeper.send_signal(signal.SIGKILL)
    eventually(lambda: folder.servers() == [])


def test_they_are_removed_only_when_nobody_uses_them(folder):
    user = folder.start()
    told(user)
    remover = folder.start(REMOVER)
    _, problem = remover.communicate()
    assert "in use by another program" in problem
    assert (folder.var / "servers" / "postgres" / "PG_VERSION").exists()

    user.communicate()
    remover = folder.start(REMOVER)
    assert remover.communicate() == ("", "")
    assert [path.name for path in (folder.var / "servers").iterdir()] == ["users.lock"]


def test_a_folder_with_a_long_name_gets_its_socket_elsewhere(tmp_path):
    folder = Folder(tmp_path / ("a folder whose name is too long for a socket " * 3) / "var")
    user = folder.start()
    addresses = told(user)
    assert value(addresses["database_url"], "SELECT 1") == 1
    user.communicate()
    eventually(lambda: folder.servers() == [])
