"""A merchant's machine: takes webhooks on one or more addresses, and behaves as it is told, path by path.

``python -m tests.webhooks.receiver 127.0.0.1:8001 [127.0.0.2:8001 …]``; told and asked under ``/_/``. It knows nothing
of the program: only the standard library.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

got: list[dict] = []
behaviour: dict[str, dict] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.startswith("/_/"):
            if self.path == "/_/forget":
                got.clear()
                behaviour.clear()
            behaviour.update(json.loads(body))
            self.say(200)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        local = self.connection.getsockname()
        got.append({"path": self.path, "headers": headers, "body": body.decode(), "address": local[0]})
        how = behaviour.get(self.path, {})
        getattr(self, how.get("kind", "good"))(how, body, headers)

    def do_GET(self) -> None:
        self.say(200, json.dumps(got).encode() if self.path == "/_/got" else b"")

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def good(self, how: dict, body: bytes, headers: dict) -> None:
        self.say(200, b"ok")

    def status(self, how: dict, body: bytes, headers: dict) -> None:
        self.say(how["status"], how.get("body", "no").encode())

    def slow(self, how: dict, body: bytes, headers: dict) -> None:
        time.sleep(how["seconds"])
        self.say(200, b"ok")

    def drip(self, how: dict, body: bytes, headers: dict) -> None:
        """Headers that never end, a few bytes at a time: no single read takes long."""
        for _n in range(600):
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" if not _n else b"x-drip: 1\r\n")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def redirect(self, how: dict, body: bytes, headers: dict) -> None:
        self.say(how.get("status", 307), b"", location=how["to"])

    def echo(self, how: dict, body: bytes, headers: dict) -> None:
        """Lies that it is us: our own signature and content come back, with a failure."""
        signature = {name: headers[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
        self.say(500, body, **signature)

    def garbage(self, how: dict, body: bytes, headers: dict) -> None:
        self.say(200, b"\x00\xff\xfe<html>" + b"x" * 5000)

    def kill(self, how: dict, body: bytes, headers: dict) -> None:
        """The sender dies between what it sent and what it would have written down."""
        os.kill(how["pid"], signal.SIGKILL)
        self.say(200)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    servers = []
    for address in sys.argv[1:]:
        host, _colon, port = address.rpartition(":")
        servers.append(Server((host, int(port)), Handler))
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
