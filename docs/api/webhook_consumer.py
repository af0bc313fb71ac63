"""A machine that takes webhooks, whole: verifies, answers at once, and does everything once.

pip install standardwebhooks;  python webhook_consumer.py 8001 whsec_… [the old secret, during a rotation]
"""

import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

PORT, SECRETS = int(sys.argv[1]), sys.argv[2:]
seen = sqlite3.connect("webhooks.db", check_same_thread=False, isolation_level=None)
seen.execute("CREATE TABLE IF NOT EXISTS told (id TEXT PRIMARY KEY, body TEXT NOT NULL)")


class Consumer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not any(is_genuine(secret, body, headers) for secret in SECRETS):
            self.send_response(401)
        else:
            # At least once: the same id may come again. What is to be done about it is done later, from this table.
            seen.execute("INSERT OR IGNORE INTO told VALUES (?, ?)", (headers["webhook-id"], body.decode()))
            self.send_response(204)
        self.end_headers()


def is_genuine(secret: str, body: bytes, headers: dict) -> bool:
    try:
        Webhook(secret).verify(body, headers)  # signed by us, over exactly these bytes, within five minutes
    except (WebhookVerificationError, ValueError):
        return False
    return True


ThreadingHTTPServer(("127.0.0.1", PORT), Consumer).serve_forever()
