"""Drives a headless Chromium through its DevTools protocol, with nothing but the `websockets` package."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)


def chromium_path() -> str | None:
    """The installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """One tab.

    Attributes:
        errors: Uncaught exceptions of the page.
        outside: Requests to other hosts than this machine.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        self.outside: list[str] = []

    def call(self, method: str, timeout: float = 30.0, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            answer = json.loads(self._connection.recv(timeout=max(0.01, end - time.monotonic())))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)
        raise TimeoutError(method)

    def listen(self, seconds: float) -> None:
        """Let the page run."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                self._note(json.loads(self._connection.recv(timeout=left)))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path | None = None) -> bytes:
        """PNG bytes of the page."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png", timeout=60.0)["data"])
        if path is not None:
            path.write_bytes(png)
        return png

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 10, pause: float = 0.03) -> None:
        """Drag with the left mouse button."""
        self._mouse("mousePressed", start)
        for i in range(1, steps + 1):
            share = i / steps
            self._mouse("mouseMoved", tuple(round(a + share * (b - a)) for a, b in zip(start, end, strict=True)))
            self.listen(pause)
        self._mouse("mouseReleased", end)

    def click(self, at: tuple[int, int]) -> None:
        """Click with the left mouse button."""
        self._mouse("mouseMoved", at, "none")
        self.listen(0.2)
        self._mouse("mousePressed", at)
        self._mouse("mouseReleased", at)

    def _mouse(self, kind: str, at: tuple[int, ...], button: str = "left") -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button=button, buttons=1, clickCount=1)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        if event.get("method") == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            if not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")):
                self.outside.append(url)


@contextlib.contextmanager
def open_page(url: str, profile: Path, width: int = 1280, height: int = 800) -> Iterator[Page]:
    """Open a page in a fresh Chromium."""
    path = chromium_path()
    assert path is not None
    command = [path, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    process = subprocess.Popen(
        [*command, "--remote-debugging-port=0", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(_page_socket(profile), max_size=None) as connection:
            page = Page(connection)
            for domain in ("Page", "Runtime", "Network"):
                page.call(f"{domain}.enable")
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            page.call("Emulation.setDeviceMetricsOverride", **metrics)
            page.call("Page.navigate", url=url)
            yield page
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        if process.poll() is None:
            process.kill()


def _page_socket(profile: Path, timeout: float = 30.0) -> str:
    """The address of the first tab's debugging socket."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                for target in json.load(answer):
                    if target["type"] == "page":
                        return str(target["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise TimeoutError("chromium did not start")
