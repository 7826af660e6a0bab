"""The pose solver's child process: start it, read its progress, end it when it hangs, say how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from ..progress import Progress

MAX_LINE = 64 * 1024
"""Characters of one progress line; longer ones are not ours."""


class ChildFailure(Exception):
    """The solver did not come to an answer.

    Args:
        what: How it ended ("ended by SIGSEGV", "took longer than 60 s").
        is_timeout: It was ended because its time was over.
    """

    def __init__(self, what: str, *, is_timeout: bool = False) -> None:
        super().__init__(what)
        self.what, self.is_timeout = what, is_timeout


def default_command() -> tuple[str, ...]:
    """This Python on the solver script; started by path, because importing its package would load torch."""
    return (sys.executable, str(Path(__file__).with_name("sfm_child.py")))


def run_child(command: Sequence[str], log_path: Path, deadline: float, threads: int, progress: Progress) -> None:
    """Run the solver to its end and pass its progress on.

    Args:
        command: Program and arguments; no shell is involved.
        log_path: Its standard error is appended here.
        deadline: `time.monotonic()` at which it is ended.
        threads: Threads its numerical libraries may use.
        progress: Receives stages, counts with the time left, and warnings.
    Raises:
        ChildFailure: if it crashes, ends with an error, or runs into the deadline.
        UserError: if it cannot be started or lacks the solver library.
    """
    started = time.monotonic()
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    with log_path.open("ab") as log_file:
        log_file.write(f"$ {shlex.join(command)}\n".encode("utf-8", "surrogateescape"))
        log_file.flush()
        log_start = log_file.tell()
        try:
            # An open pipe as its standard input: it closes with us, and the child then leaves too.
            child = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, text=True,
                encoding="utf-8", errors="replace", env={**os.environ, **limits}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"cannot be started: {error.strerror}", where=command[0], fix="Install the package again"
            ) from None
        try:
            if not _follow(child, deadline, progress):
                raise ChildFailure(f"took longer than {deadline - started:.0f} s", is_timeout=True)
        finally:
            _end(child)
    if child.returncode:
        raise _failure(child.returncode, log_path, log_start)


def _follow(child: subprocess.Popen[str], deadline: float, progress: Progress) -> bool:
    """Pass events on until the child closes its output; False when the deadline comes first."""
    lines: queue.Queue[str | None] = queue.Queue()
    stdout: IO[str] = child.stdout  # type: ignore[assignment]

    def read() -> None:
        # Its end is put even when the pipe breaks, else the follower would wait for nothing.
        with contextlib.suppress(ValueError, OSError):
            while line := stdout.readline(MAX_LINE):
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    reporter = _Reporter(progress)
    while True:
        try:
            line = lines.get(timeout=max(0.0, min(deadline - time.monotonic(), 1.0)))
        except queue.Empty:
            if time.monotonic() >= deadline:
                return False
            continue
        if line is None:
            break
        reporter.hear(line)
    try:
        child.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


class _Reporter:
    """Turns the child's JSON lines into progress with the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started, self._total = time.monotonic(), 0

    def hear(self, line: str) -> None:
        try:
            event: Mapping[str, Any] = json.loads(line)
        except ValueError:
            return  # a library's chatter
        kind = event.get("event") if isinstance(event, dict) else None
        if kind == "stage":
            total = event.get("total")
            self._started, self._total = time.monotonic(), total if isinstance(total, int) else 0
            self._progress.stage(str(event.get("name", "")), self._total or None)
        elif kind == "advance" and isinstance(event.get("done"), int):
            done = int(event["done"])
            parts = [str(event.get("note", "")), self._time_left(done)]
            self._progress.advance(done, ", ".join(part for part in parts if part))
        elif kind == "warn":
            self._progress.warn(str(event.get("text", ""))[:500])

    def _time_left(self, done: int) -> str:
        elapsed = time.monotonic() - self._started
        if not self._total or not 0 < done < self._total or elapsed < 2:
            return ""
        return f"about {elapsed / done * (self._total - done):.0f} s left"


def _end(child: subprocess.Popen[str]) -> None:
    """Make sure the child and all it started are gone, and its pipes closed."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _failure(code: int, log_path: Path, log_start: int) -> Exception:
    with log_path.open("rb") as file:
        file.seek(log_start)
        tail = file.read()[-20_000:].decode("utf-8", "replace").strip().splitlines()
    if any("No module named" in line and "pycolmap" in line for line in tail[-3:]):
        return UserError("the pose solver is not installed", where="pycolmap", fix="Run `pip install pycolmap`")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (the system ends programs like this when memory runs out)" if name == "SIGKILL" else ""
        return ChildFailure(f"the pose solver was ended by {name}{hint}")
    last = next((line for line in reversed(tail) if line.strip()), "no message")
    return ChildFailure(f"the pose solver ended with status {code} ({last.strip()[:200]})")
