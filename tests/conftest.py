"""What every test runs under: fixed seeds, one thread, no network, and a plain list of what could not run here."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

# Read once, when numba and torch are first imported. Two numba threads stay possible for the tests that compare counts.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from nerfstudio_ext import kernels
from tests.cli.tiny_capture import TINY_METHOD, write_capture

ROOT = Path(__file__).resolve().parents[1]
_REASONS = {
    "cuda": "GPU tests: no CUDA device",
    "browser": "browser tests: no Chromium found",
    "shared": "tests on the shared captures and fixtures: NSX_SHARED (default ../shared) is not there",
    "network": "network tests: NSX_NETWORK=1 is not set",
}


def shared_folder() -> Path:
    """The folder of real captures and parity figures; may not exist."""
    return (ROOT / os.environ.get("NSX_SHARED", "../shared")).resolve()


def find_chromium() -> str | None:
    """A Chromium-like browser on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def can_run(marker: str) -> bool:
    """Whether this machine has what tests with `marker` need."""
    if marker == "cuda":
        return torch.cuda.is_available()
    if marker == "browser":
        return find_chromium() is not None
    if marker == "shared":
        return shared_folder().is_dir()
    return os.environ.get("NSX_NETWORK") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {marker for marker in _REASONS if not can_run(marker)}
    for item in items:
        for marker in sorted(missing & {mark.name for mark in item.iter_markers()}):
            item.add_marker(pytest.mark.skip(reason=_REASONS[marker]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly what did not run, so that a pass here never reads as a pass on a GPU."""
    by_reason: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        by_reason.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if not by_reason:
        return
    terminalreporter.section("not run")
    for reason, tests in sorted(by_reason.items()):
        terminalreporter.write_line(f"{len(tests):4d}  {reason}")
        for test in tests[:20]:
            terminalreporter.write_line(f"      {test}")
        if len(tests) > 20:
            terminalreporter.write_line(f"      ... and {len(tests) - 20} more")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _starts_with_one_thread() -> None:
    kernels.set_threads(1)


@pytest.fixture(autouse=True)
def _ends_with_one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other most of the time; and a fork of two threads hangs."""
    yield
    kernels.set_threads(1)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse connections that leave this machine, unless the test is marked `network`."""
    if request.node.get_closest_marker("network"):
        yield
        return
    connect = socket.socket.connect

    def guarded(sock: socket.socket, address: object) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0]) if isinstance(address, tuple) else ""
            if host not in ("localhost", "::1", "0.0.0.0", "") and not host.startswith("127."):  # noqa: S104
                raise RuntimeError(f"a test tried to reach {host}: tests run without a network")
        return connect(sock, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


@pytest.fixture
def shared() -> Path:
    """The folder of real captures; use with the `shared` marker."""
    return shared_folder()


@pytest.fixture
def chromium() -> str:
    """Path of a headless-capable browser; use with the `browser` marker."""
    path = find_chromium()
    assert path is not None, "mark the test with @pytest.mark.browser"
    return path


@pytest.fixture(scope="session")
def tiny_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A posed capture of 16 small photos; do not write to it."""
    return write_capture(tmp_path_factory.mktemp("capture") / "ball")


@pytest.fixture(scope="session")
def tiny_run(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 30 steps, trained once per session; do not write to it."""
    from nerfstudio_ext.cli import main

    output = tmp_path_factory.mktemp("outputs")
    words = ["train", "ngp", str(tiny_capture), "--output-dir", str(output), "--no-viewer", "--max-steps", "30"]
    assert main([*words, "--steps-per-save", "15", "--max-images", "0", *TINY_METHOD]) == 0
    (run,) = output.glob("ball/ngp/*")
    return run
