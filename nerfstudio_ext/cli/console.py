"""What a command says: text for people, one JSON object for scripts, progress with rate and time left."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import UserError, printable

_RATE_WINDOW_S = 15.0
_MAX_WARNING = 2000
"""Characters of a warning; it may name files, whose names are not ours."""
_UNREAD = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
"""The reader of a pipe has gone, the disk of a log is full, the terminal was closed: no reason to end a training."""
_LINE_SECONDS = 10.0
"""Between two progress lines on a terminal that cannot redraw: few enough for a log file, often enough to trust."""


def discard_output(stream: IO[str]) -> None:
    """Let everything that is still to be written to a stream go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Output:
    """Where a command's words go.

    Args:
        json_target: `-` for standard output, a file name, or None. With one, text for people goes to stderr.
    """

    def __init__(self, json_target: str | None = None) -> None:
        self._json_target = json_target
        self._warned: set[str] = set()
        if json_target not in (None, "-") and not Path(str(json_target)).absolute().parent.is_dir():
            raise UserError("its folder does not exist", where=f"--json {json_target}", fix="Make the folder first")

    @property
    def stream(self) -> IO[str]:
        """Where text for people goes; looked up each time, because a live bar puts itself in between."""
        return sys.stdout if self._json_target is None else sys.stderr

    @property
    def is_terminal(self) -> bool:
        """Whether a person sits in front of it: both ends are a terminal."""
        return self.stream.isatty() and sys.stdin is not None and sys.stdin.isatty()

    def say(self, text: str = "") -> None:
        """Print text for people, at once. Where nobody can read any more, work goes on in silence."""
        try:
            print(text, file=self.stream, flush=True)
        except OSError as error:
            if error.errno not in _UNREAD:
                raise
            discard_output(self.stream)

    def warn(self, text: str) -> None:
        """Print a warning, once: some reach us both through a log and through `Progress`."""
        if text not in self._warned:
            self._warned.add(text)
            self.say(f"warning: {printable(text, _MAX_WARNING)}")

    def box(self, title: str, rows: Mapping[str, object]) -> None:
        """Print a small table of names and values."""
        width = max((len(name) for name in rows), default=0)
        self.say(f"\n{title}")
        for name, value in rows.items():
            self.say(f"  {name:{width}}  {value}")

    def progress(self) -> TerminalProgress | LineProgress:
        """Progress for this terminal: a live bar, or plain lines where nothing can be redrawn."""
        can_redraw = self.stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        return TerminalProgress(self) if can_redraw else LineProgress(self)

    def result(self, value: Mapping[str, Any]) -> None:
        """Write the command's JSON object, when one was asked for; numbers that JSON cannot hold become null."""
        if self._json_target is None:
            return
        text = json.dumps({"schema": 1, **_finite(value)}, ensure_ascii=False, allow_nan=False)
        if not text.isprintable():  # a file's name that is no text: as escapes, nothing of it is lost
            text = json.dumps(json.loads(text), allow_nan=False)
        if self._json_target == "-":
            print(text, flush=True)
        else:
            Path(self._json_target).write_text(text + "\n", encoding="utf-8")

    def log_handler(self) -> logging.Handler:
        """Warnings of the library's loggers, as lines for people."""
        return _Notes(self)


class _Notes(logging.Handler):
    def __init__(self, out: Output) -> None:
        super().__init__(logging.WARNING)
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "is_note", False):  # what a person waits for, and no reason to worry
            self._out.say(record.getMessage())
        else:
            self._out.warn(record.getMessage())


class StageClock:
    """Where a stage stands: how far, how fast over the last seconds, how long it will still take."""

    def __init__(self, name: str = "", total: int | None = None) -> None:
        self.name, self.total, self.note = name, total, ""
        self._began = time.monotonic()
        self._marks = deque([(self._began, 0)])

    @property
    def seconds(self) -> float:
        """Time since the stage began."""
        return time.monotonic() - self._began

    def advance(self, done: int, note: str) -> str:
        """Note progress; returns `120/300, 12.3/s, 15.0 s left`."""
        self.note = note
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_WINDOW_S:
            self._marks.popleft()
        then, before = self._marks[0]
        knows_better = note.endswith(" left")  # the job's own estimate, which knows what is still to come
        total = None if knows_better else self.total
        state = describe(done, total, (done - before) / max(now - then, 1e-3))
        return f"{done}/{self.total}" if knows_better and self.total else state

    def ending(self) -> str:
        """The line that stays when the stage has ended."""
        return f"{self.name}: done in {clock(self.seconds)}  {self.note}".rstrip()


class LineProgress:
    """A `Progress` in plain lines: one when a stage begins, one every ten seconds, one when it ends."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._stage = StageClock()
        self._said = 0.0

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; see `Progress`."""
        self.finish()
        self._stage = StageClock(name, total)
        self._said = time.monotonic()
        self._out.say(f"{name} ...")

    def advance(self, done: int, note: str = "") -> None:
        """Say how far the stage is; see `Progress`."""
        state = self._stage.advance(done, note)
        if time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            self._out.say(f"{self._stage.name}: {state}  {note}".rstrip())

    def warn(self, text: str) -> None:
        """Print a warning; see `Progress`."""
        self._out.warn(text)

    def finish(self) -> None:
        """End the present stage."""
        if self._stage.name:
            self._out.say(self._stage.ending())
        self._stage = StageClock()


class TerminalProgress:
    """A `Progress` drawn as one live bar; stages that ended stay above it as lines."""

    def __init__(self, out: Output) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._out = out
        console = Console(file=out.stream, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", visible=False, state="")
        self._stage = StageClock()

    def __enter__(self) -> TerminalProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        self._bar.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; see `Progress`."""
        self.finish()
        self._stage = StageClock(name, total)
        self._bar.reset(self._task, description=name, total=total, visible=True, state="")

    def advance(self, done: int, note: str = "") -> None:
        """Say how far the stage is; see `Progress`."""
        state = self._stage.advance(done, note)
        self._bar.update(self._task, completed=done, state=f"{state}  {note}".rstrip())

    def warn(self, text: str) -> None:
        """Print a warning above the bar; see `Progress`."""
        self._out.warn(text)

    def finish(self) -> None:
        """End the present stage and take the bar away."""
        if self._stage.name:
            self._out.say(self._stage.ending())
            self._bar.update(self._task, visible=False)
        self._stage = StageClock()


def describe(done: int, total: int | None, rate: float) -> str:
    """`120/300, 12.3/s, 15.0 s left` at a rate per second."""
    if total is None:
        return f"{done}, {rate:.3g}/s" if done else ""
    left = f", {clock((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{done}/{total}, {rate:.3g}/s{left}"


def clock(seconds: float) -> str:
    """`12.3 s`, `4:05 min` or `1:02 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
