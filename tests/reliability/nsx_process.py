"""Running `nsx` as a user would, cheaply, and holding how it ended: exit code, one line, time, memory, files.

ended = run_nsx(["train", "ngp", str(folder)], folder=tmp_path)
assert_one_line(ended, 2, names="photos", says="no such folder")
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_HASHED_BYTES = 64 * 2**20
"""Larger files are compared by size and time: only files that are all holes get so large here."""
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",  # tests run without a network
}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: Exit code; minus the number of the signal that ended it.
        out: Standard output.
        err: Standard error.
        seconds: Wall time.
        peak_mb: Most memory it held in RAM, its own children included.
        grown_mb: The same, less what the imported command weighs before it does anything (0 for a fresh process).
        is_late: It was killed because its time was over.
        opened: Every path that Python code opened, as it was named.
        launched: Every program that was started, as its words.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_mb: float
    grown_mb: float
    is_late: bool
    opened: tuple[str, ...]
    launched: tuple[tuple[str, ...], ...]

    @property
    def errors(self) -> list[str]:
        """The `error:` lines on standard error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


class Running:
    """A command under way; `wait` must be called."""

    def __init__(self, pid: int, zygote: _Zygote, files: Path) -> None:
        self.pid = pid
        self._zygote, self._files = zygote, files
        self._began = time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        os.kill(self.pid, number)

    def out(self) -> str:
        """What it has printed so far."""
        return _read(self._files / "out")

    def err(self) -> str:
        """What it has complained of so far."""
        return _read(self._files / "err")

    def wait_for(self, text: str, *, seconds: float = 20) -> None:
        """Wait until it has printed `text` on either stream."""
        deadline = time.monotonic() + seconds
        while text not in self.out() + self.err():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {text!r} in {seconds} s:\n{self.out()}{self.err()}")
            time.sleep(0.005)

    def wait(self, *, seconds: float = 20) -> Ended:
        """Wait for its end; it is killed when `seconds` from now are over."""
        answer = self._zygote.ask({"do": "wait", "pid": self.pid, "seconds": seconds})
        took = time.monotonic() - self._began
        notes = [json.loads(line) for line in _read(self._files / "audit").splitlines()]
        self._zygote.modules |= {words[0] for kind, words in notes if kind == "import"}
        grown_mb = max(0.0, answer["peak_mb"] - self._zygote.resident_mb)
        opened = tuple(words[0] for kind, words in notes if kind == "open")
        launched = tuple(tuple(words) for kind, words in notes if kind == "run")
        said = self.out(), self.err(), took
        return Ended(answer["code"], *said, answer["peak_mb"], grown_mb, answer["late"], opened, launched)


def run_nsx(
    argv: Sequence[str],
    *,
    folder: Path,
    seconds: float = 20,
    memory_mb: float | None = 1500,
    env: Mapping[str, str | None] | None = None,
    stdin: Path | None = None,
) -> Ended:
    """Run `nsx` with these words to its end.

    Args:
        argv: Words after `nsx`.
        folder: Its working folder.
        seconds: Time after which it is killed (`Ended.is_late`).
        memory_mb: Address space it may take on top of what the imported command has; None for no limit.
        env: Variables to set, or with None to remove. Those that are read while importing need `run_fresh`.
        stdin: File for standard input; default empty.
    """
    return start_nsx(argv, folder=folder, memory_mb=memory_mb, env=env, stdin=stdin).wait(seconds=seconds)


def start_nsx(
    argv: Sequence[str],
    *,
    folder: Path,
    memory_mb: float | None = 1500,
    env: Mapping[str, str | None] | None = None,
    stdin: Path | None = None,
    out: Path | None = None,
    limits: Mapping[str, int] | None = None,
) -> Running:
    """Start `nsx` and return at once; see `run_nsx`.

    Args:
        out: File or device for standard output (`/dev/full`); default one that `Ended.out` is read from.
        limits: Further limits by name (`RLIMIT_FSIZE`), in bytes or seconds.
    """
    zygote = _zygote()
    files = zygote.next_folder()
    for name in ("out", "err", "audit"):
        (files / name).touch()
    request = {
        "do": "start", "modules": sorted(zygote.modules), "argv": list(argv), "folder": str(folder),
        "env": dict(env or {}), "memory_mb": memory_mb, "stdin": str(stdin or os.devnull),
        "out": str(out or files / "out"), "err": str(files / "err"), "audit": str(files / "audit"),
        "limits": dict(limits or {}),
    }  # fmt: skip
    return Running(zygote.ask(request)["pid"], zygote, files)


def run_fresh(
    argv: Sequence[str],
    *,
    folder: Path,
    seconds: float = 60,
    python: Sequence[str] = (),
    env: Mapping[str, str | None] | None = None,
) -> Ended:
    """Run `nsx` in a Python of its own (seconds of importing): for flags and variables that are read at its start.

    Args:
        argv: Words after `nsx`.
        folder: Its working folder.
        seconds: Time after which it is killed.
        python: Flags of the interpreter, such as `-O`.
        env: Variables to set, or with None to remove.
    """
    merged = {**os.environ, **_ONE_THREAD, "PYTHONPATH": str(ROOT), **(env or {})}
    variables = {name: value for name, value in merged.items() if value is not None}
    began, is_late = time.monotonic(), False
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [sys.executable, *python, "-m", "nerfstudio_ext", *argv], cwd=folder, env=variables,
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > seconds and not is_late:
                is_late = True
                os.killpg(child.pid, signal.SIGKILL)
            time.sleep(0.01)
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    peak_mb = usage.ru_maxrss / 1024
    return Ended(child.returncode, *texts, time.monotonic() - began, peak_mb, 0.0, is_late, (), ())


def assert_one_line(
    ended: Ended, code: int, *, names: str | Sequence[str] = (), says: str | Sequence[str] = (), has_fix: bool = True
) -> str:
    """Hold the promise for a command that must refuse; returns the line.

    Args:
        ended: How it ended.
        code: Exit code it must have.
        names: What the line must name: file, folder or option; one text or several.
        says: Regular expressions that the line must contain; one or several.
        has_fix: Whether a sentence must follow that says what to do.
    """
    story = f"code {ended.code}, late {ended.is_late}\n--- out\n{ended.out[-2000:]}\n--- err\n{ended.err[-4000:]}"
    assert not ended.is_late, f"killed after {ended.seconds:.1f} s: {story}"
    assert ended.code == code, f"wanted exit code {code}: {story}"
    assert len(ended.errors) == 1, f"wanted one `error:` line: {story}"
    (line,) = ended.errors
    said = ended.out + ended.err
    assert "Traceback" not in said, story
    assert "weights_only=False" not in said, story
    assert len(line) < 1500, f"{len(line)} characters are no line: {story}"
    for name in [names] if isinstance(names, str) else names:
        assert name in line, f"wanted {name!r} in: {line}"
    for pattern in [says] if isinstance(says, str) else says:
        assert re.search(pattern, line), f"wanted {pattern!r} in: {line}"
    assert not has_fix or re.search(r"[.!?)] [A-Z`].*[.!?`)]$", line), f"no sentence says what to do: {line}"
    return line


def assert_done(ended: Ended) -> None:
    """Hold that the command did its work: exit code 0, no traceback, not killed."""
    story = f"code {ended.code}, late {ended.is_late}\n--- out\n{ended.out[-3000:]}\n--- err\n{ended.err[-3000:]}"
    assert ended.code == 0 and not ended.is_late, story
    assert "Traceback" not in ended.out + ended.err, story


@contextlib.contextmanager
def unchanged(*folders: Path, but: Sequence[str] = ()) -> Iterator[None]:
    """Hold that nothing below `folders` is added, removed, rewritten or touched.

    Args:
        folders: Folders or files; one that does not exist must stay so.
        but: Paths relative to a folder that may change.
    """
    before = [_snapshot(folder, but) for folder in folders]
    yield
    for folder, old in zip(folders, before, strict=True):
        new = _snapshot(folder, but)
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        told = [f"{name}: {old.get(name)} -> {new.get(name)}" for name in changed[:10]]
        assert not changed, f"{folder} was changed:\n" + "\n".join(told)


@pytest.fixture
def no_marker(tmp_path: Path) -> Iterator[Path]:
    """A path that malicious input tries to create; the test fails when it exists afterwards."""
    marker = tmp_path / "marker-of-foreign-code"
    yield marker
    assert not marker.exists(), f"data ran as code: {marker} exists"


def _snapshot(folder: Path, but: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    if not os.path.lexists(folder):
        return {}
    paths = [folder]
    for parent, folders, files in os.walk(folder):
        paths += [Path(parent, name) for name in [*folders, *files]]
    return {
        os.path.relpath(path, folder): _state(path)
        for path in paths
        if not any(Path(os.path.relpath(path, folder)).is_relative_to(name) for name in but)
    }


def _state(path: Path) -> tuple[Any, ...]:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(info.st_mode):
        return "folder", stat.S_IMODE(info.st_mode)
    is_readable = stat.S_ISREG(info.st_mode) and os.access(path, os.R_OK) and info.st_size < _HASHED_BYTES
    digest = hashlib.blake2b(path.read_bytes()).hexdigest()[:16] if is_readable else ""
    return "file", info.st_mode, info.st_size, info.st_mtime_ns, digest


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


class _Zygote:
    """The other end of `nsx_zygote`: one per test session, ended with it."""

    def __init__(self) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="nsx-tests-")
        self._count = 0
        self.modules: set[str] = set()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.reliability.nsx_zygote", str(theirs.fileno())], cwd=ROOT,
                env={**os.environ, **_ONE_THREAD}, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._lines = ours.makefile("rw", encoding="utf-8")
        ours.close()
        ready = self._answer()
        self.resident_mb: float = ready["resident_mb"]
        atexit.register(self.close)

    def next_folder(self) -> Path:
        self._count += 1
        folder = Path(self._files.name, f"{self._count:05d}")
        folder.mkdir()
        return folder

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        return self._answer()

    def close(self) -> None:
        self._lines.close()
        self._process.wait(timeout=10)
        self._files.cleanup()

    def _answer(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise RuntimeError(f"the process that runs nsx has ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


_RUNNING: list[_Zygote] = []


def _zygote() -> _Zygote:
    if not _RUNNING:
        _RUNNING.append(_Zygote())
    return _RUNNING[0]
