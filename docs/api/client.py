"""A client of the merchant API on Python's own library. Copy it into your program."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen


class Problem(Exception):
    """What the API refused: ``code`` is for your program, the text for people and for your log."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem['code']}: {problem['detail']} (request {problem['request_id']})")
        self.status, self.code, self.problem = problem["status"], problem["code"], problem


class Client:
    def __init__(self, api: str, key: str, *, timeout: float = 10, attempts: int = 5) -> None:
        self.api, self.key, self.timeout, self.attempts = api.rstrip("/"), key, timeout, attempts

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None, "")

    def post(self, path: str, body: dict[str, Any], *, key: str = "") -> Any:
        """Give a ``key`` that you keep with your order, and it has one effect even after your program was restarted."""
        return self._ask("POST", path, body, key or str(uuid.uuid4()))

    def every(self, path: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """All rows of a list, page by page."""
        page = self.get(path, **filters)
        yield from page["data"]
        while page["has_more"]:
            page = self.get(path, cursor=page["next_cursor"])  # it carries the filters
            yield from page["data"]

    def _ask(self, method: str, path: str, body: Any, key: str) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        if method == "POST":
            headers |= {"Content-Type": "application/json", "Idempotency-Key": key}
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, self.attempts + 1):
            pause = 0.2 * 2**attempt
            try:
                request = Request(f"{self.api}{path}", data, headers, method=method)
                with urlopen(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except HTTPError as refusal:
                if refusal.code not in (429, 500, 502, 503, 504) or attempt == self.attempts:
                    raise Problem(json.load(refusal)) from None
                pause = float(refusal.headers.get("Retry-After", pause))
            except OSError:  # no answer says nothing about what was done: ask again with the same key
                if attempt == self.attempts:
                    raise
            time.sleep(pause)
        raise AssertionError("at least one attempt")
