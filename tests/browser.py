"""A real browser, spoken to over its own debugging pipe: Chromium, if this machine has one."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATH = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), "")
PATIENCE = 30.0
"""Seconds that anything on a page may take."""


# A browser reads from 3 and writes to 4, whichever numbers the pipe's ends have.
_WITH_PIPES = (
    "import fcntl, os, sys; a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]);"
    "os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One page in one browser that knows nothing from before; ``wrongs`` is what its console complained of."""

    def __init__(self, folder: Path, *, width: int, height: int = 844, scripts: bool = True) -> None:
        into, self._out = os.pipe()
        self._in, out_of = os.pipe()
        command = [
            *(PATH, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WITH_PIPES, str(into), str(out_of), *command],
            pass_fds=(into, out_of),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(into)
        os.close(out_of)
        self._buffer = b""
        self._last = 0
        self._session = ""
        self.width = width
        self.wrongs: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        # What a page brings along no longer runs; looking at it from outside still does.
        self._ask("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """What a script finds on the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until a script finds something; a page that is being changed is looked at again."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            try:
                if self.run(f"!!({expression})"):
                    return
            except (AssertionError, LookupError):
                pass  # between two pages there is nothing to look at
            time.sleep(0.05)
        raise AssertionError(f"never came: {expression}\n{self.run('document.body.innerText')}")

    def type(self, selector: str, text: str) -> None:
        self.run(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({json.dumps(selector)}))")
        self._ask("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click, and wait for the page that follows."""
        self.run("window.isOld = true")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self.until("!window.isOld && document.readyState === 'complete'")

    def picture(self, file: Path) -> None:
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()

    # The pipe: JSON documents, each closed by a zero byte

    def _ask(self, method: str, **what: Any) -> dict[str, Any]:
        self._last += 1
        question: dict[str, Any] = {"id": self._last, "method": method, "params": what}
        if self._session:
            question["sessionId"] = self._session
        os.write(self._out, json.dumps(question).encode() + b"\0")
        ends = time.monotonic() + PATIENCE
        while True:
            document = self._next(ends)
            if document.get("id") == self._last:
                if "error" in document:
                    raise LookupError(document["error"])
                answer: dict[str, Any] = document["result"]
                return answer
            entry = document.get("params", {}).get("entry", {})
            if document.get("method") == "Log.entryAdded" and entry.get("level") == "error":
                self.wrongs.append(f"{entry.get('text')} {entry.get('url', '')}")
            if document.get("method") == "Runtime.exceptionThrown":
                self.wrongs.append(str(document["params"]["exceptionDetails"]))

    def _next(self, ends: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], max(0.0, ends - time.monotonic()))[0], "the browser is silent"
            came = os.read(self._in, 1 << 20)
            assert came, "the browser is gone"
            self._buffer += came
        raw, _zero, self._buffer = self._buffer.partition(b"\0")
        document: dict[str, Any] = json.loads(raw)
        return document
