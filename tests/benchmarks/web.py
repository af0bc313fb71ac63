"""The web process under measurement, and so many clients that ask it without a pause."""

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from tests.benchmarks.partners import PATIENCE, PROJECT
from tests.partners import free_port


@contextmanager
def served(*, workers: int, threads: int) -> Iterator[int]:
    """While this block runs our web process answers at the port it gives, with the bare views beside the real ones."""
    port = free_port()
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.benchmarks.bare_settings", "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", str(workers), "--blocking-threads", str(threads), "--no-access-log"),
            *("--log-level", "error", "config.wsgi:application"),
        ],
        cwd=PROJECT, env=environment,
    )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, questions: list[bytes], *, clients: int, status: bytes) -> tuple[float, list[float]]:
    """Seconds for all questions, and of each how long its answer took. Every client keeps one connection.

    One thread serves all clients: it only sends what is composed and counts the bytes of the answers, so that the
    server has as much of the machine as can be.
    """
    selector = selectors.DefaultSelector()
    waiting = iter(questions)
    latencies: list[float] = []
    began: dict[socket.socket, float] = {}
    heard: dict[socket.socket, bytes] = {}
    lines = [socket.create_connection(("127.0.0.1", port)) for _client in range(clients)]

    def next_question(line: socket.socket) -> bool:
        question = next(waiting, None)
        if question is None:
            selector.unregister(line)
            return False
        heard[line] = b""
        began[line] = perf_counter()
        line.sendall(question)
        return True

    start = perf_counter()
    for line in lines:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(line, selectors.EVENT_READ)
    open_lines = sum([next_question(line) for line in lines])
    while open_lines:
        for key, _events in selector.select():
            line = key.fileobj
            assert isinstance(line, socket.socket)
            heard[line] += line.recv(65536)
            if not _is_whole(heard[line]):
                continue
            latencies.append(perf_counter() - began[line])
            assert heard[line][9:12] == status, heard[line]
            open_lines -= not next_question(line)
    taken = perf_counter() - start
    for line in lines:
        line.close()
    return taken, latencies


def _is_whole(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
    return len(body) >= int(length)


def request(path: str, raw: bytes, *lines: str) -> bytes:
    head = [
        f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(raw)}",
        *lines,
    ]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode() + raw
