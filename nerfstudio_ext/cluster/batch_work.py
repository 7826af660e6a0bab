"""The steps of one capture of a batch, each a command in a process of its own; restartable after anything.

`state.json` in the capture's folder holds, for each step, a fingerprint of everything that decides its result, how it
ended, and the JSON object of the command. A step whose fingerprint, end and results still stand is not done again; a
training that was interrupted is resumed; rendering continues by itself. A step that fails skips those that need it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import UserError
from ..strict_json import read_json
from .commands import environ_for, nsx_words
from .manifest import StepName

STATE, LOG = "state.json", "log.txt"
RUN, CAPTURE = "{run}", "{capture}"
"""Stand in a command for what an earlier step made."""
_MAX_STATE_BYTES = 16 << 20
_LOOK_S = 0.2
"""How soon a command notices that everything stops."""
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
StepState = Literal["done", "failed", "skipped", "interrupted"]


@dataclass(frozen=True)
class StepPlan:
    """One command.

    Attributes:
        name: The step.
        words: The words after `nsx`, with `{run}` and `{capture}` for results of earlier steps.
        result: Entry of its JSON object that names what it makes; that must still be there for the step to count.
        needs: The step whose result it works on.
    """

    name: StepName
    words: tuple[str, ...]
    result: str
    needs: StepName | None = None


@dataclass(frozen=True)
class CapturePlan:
    """All that is to be done for one capture.

    Attributes:
        name: Its name.
        folder: Where its results go.
        source: The input.
        stamp: Changes when the files of the input change.
        steps: In order.
        threads: Threads of each command; None leaves the choice to it.
    """

    name: str
    folder: str
    source: str
    stamp: str
    steps: tuple[StepPlan, ...]
    threads: int | None = None


@dataclass(frozen=True)
class StepRow:
    """How a step ended.

    Attributes:
        name: The step.
        state: `done`, `failed`, `skipped` (something it needs failed) or `interrupted`.
        seconds: Wall time of the command.
        is_old: Whether an earlier batch had done it.
        result: The JSON object of the command.
        error: Its last line, when it failed.
        code: Its exit code.
    """

    name: StepName
    state: StepState
    seconds: float = 0.0
    is_old: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    code: int = 0


@dataclass(frozen=True)
class CaptureRow:
    """How a capture ended."""

    name: str
    folder: str
    steps: tuple[StepRow, ...]

    @property
    def state(self) -> StepState:
        """The worst that happened."""
        states = {row.state for row in self.steps}
        order: tuple[StepState, ...] = ("interrupted", "failed", "skipped")
        return next((state for state in order if state in states), "done")

    def result(self, name: StepName) -> dict[str, Any]:
        """The JSON object of a step; empty where it has none."""
        return next((row.result for row in self.steps if row.name == name), {})


Report = Callable[[str, StepRow | None, StepName], None]
"""Gets the capture, how a step ended (None: it begins), and the step."""


def work_through(plan: CapturePlan, report: Report, should_stop: Callable[[], bool]) -> CaptureRow:
    """Do the steps of a capture that are not done yet.

    Args:
        plan: The steps.
        report: Told when a step begins and how it ended.
        should_stop: Asked all the time: the step at hand is then stopped, the others are left for later.
    """
    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = _read_state(folder)
    rows: dict[StepName, StepRow] = {}
    prints: dict[StepName, str] = {}
    for step in plan.steps:
        before = plan.stamp if step.needs is None else prints.get(step.needs, plan.stamp)
        prints[step.name] = _fingerprint(step, before)
        needed = rows.get(step.needs) if step.needs is not None else None
        if should_stop():
            rows[step.name] = StepRow(step.name, "interrupted")
        elif needed is not None and needed.state != "done":
            rows[step.name] = StepRow(step.name, "skipped", error=f"{step.needs} is missing")
        else:
            rows[step.name] = _do(plan, step, prints[step.name], rows, state, report, should_stop)
        report(plan.name, rows[step.name], step.name)
    return CaptureRow(plan.name, plan.folder, tuple(rows.values()))


def _do(
    plan: CapturePlan,
    step: StepPlan,
    fingerprint: str,
    rows: dict[StepName, StepRow],
    state: dict[str, Any],
    report: Report,
    should_stop: Callable[[], bool],
) -> StepRow:
    folder, earlier = Path(plan.folder), state.get(step.name, {})
    is_same = earlier.get("fingerprint") == fingerprint
    if is_same and earlier.get("state") == "done" and _is_there(step, earlier.get("result", {})):
        return StepRow(step.name, "done", earlier.get("seconds", 0.0), True, earlier["result"])
    report(plan.name, None, step.name)
    begun = earlier if is_same and earlier.get("state") == "begun" else {}
    runs = begun.get("runs_before", _runs_below(folder)) if step.name == "train" else []
    state[step.name] = {"fingerprint": fingerprint, "state": "begun", "runs_before": runs}
    _write_state(folder, state)
    began = time.monotonic()
    words = _resuming(step, folder, runs) if begun else None
    code, result, line = _command(plan, step, words or _filled(step, plan, rows), should_stop)
    seconds = round(time.monotonic() - began + begun.get("seconds", 0.0), 3)
    if code in INTERRUPTED:
        return StepRow(step.name, "interrupted", seconds, error=line, code=code)
    ended: StepState = "done" if code == 0 and _is_there(step, result) else "failed"
    state[step.name] |= {"state": ended, "seconds": seconds, "result": result, "error": line if code else ""}
    _write_state(folder, state)
    return StepRow(step.name, ended, seconds, False, result, line if ended == "failed" else "", code)


def _command(
    plan: CapturePlan, step: StepPlan, words: list[str], should_stop: Callable[[], bool]
) -> tuple[int, dict[str, Any], str]:
    """Run `nsx`; returns its exit code, its JSON object, and the last line it said."""
    folder = Path(plan.folder)
    answer = folder / f".{step.name}.json"
    answer.unlink(missing_ok=True)
    with (folder / LOG).open("ab") as log:
        log.write(f"\n$ nsx {' '.join(words)}\n".encode("utf-8", "surrogateescape"))
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            nsx_words([*words, "--json", str(answer)]),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ_for(plan.threads),
        )  # fmt: skip
        code = _ending_of(process, should_stop)
    try:
        result = read_json(answer, _MAX_STATE_BYTES) if answer.exists() else {}
    except UserError:
        result = {}
    answer.unlink(missing_ok=True)
    return code, result, _last_line(folder / LOG, start)


def _ending_of(process: subprocess.Popen[bytes], should_stop: Callable[[], bool]) -> int:
    """Wait for a command; one that is stopped is given the time to save."""
    try:
        while not should_stop():
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_LOOK_S)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    return process.returncode


def _filled(step: StepPlan, plan: CapturePlan, rows: dict[StepName, StepRow]) -> list[str]:
    known = {CAPTURE: plan.source, RUN: ""}
    if "process" in rows:
        known[CAPTURE] = str(Path(str(rows["process"].result["transforms"])).parent)
    if "train" in rows:
        known[RUN] = str(rows["train"].result["run"])
    return [known.get(word, word) for word in step.words]


def _resuming(step: StepPlan, folder: Path, runs_before: list[str]) -> list[str] | None:
    """The words that go on with an interrupted training that saved something; other steps begin and continue alike."""
    if step.name != "train":
        return None
    begun = [run for run in _runs_below(folder) if run not in runs_before]
    saved = [run for run in begun if any((folder / run / "checkpoints").glob("step-*"))]
    images = [word for word in step.words if word.startswith("--max-images=")]
    return ["train", "--resume", str(folder / saved[-1]), "--no-viewer", *images] if saved else None


def _runs_below(folder: Path) -> list[str]:
    found = sorted(folder.glob("runs/*/*/*/config.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent.relative_to(folder).as_posix() for path in found]


def _is_there(step: StepPlan, result: object) -> bool:
    named = result.get(step.result) if isinstance(result, dict) else None
    return isinstance(named, str) and Path(named).exists()


def _fingerprint(step: StepPlan, before: str) -> str:
    files = [Path(word) for word in step.words if os.path.isabs(word) and Path(word).is_file()]
    stats = [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    text = json.dumps([__version__, step.name, list(step.words), stats, before])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _last_line(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    told = [line for line in said if line.startswith("error:")]
    return (told or said or ["it said nothing"])[-1].removeprefix("error:").strip()[:400]


def _read_state(folder: Path) -> dict[str, Any]:
    file = folder / STATE
    if not file.exists():
        return {}
    try:
        steps = read_json(file, _MAX_STATE_BYTES).get("steps")
    except UserError:
        return {}  # cut short by a crash: its steps are done again
    return {k: v for k, v in steps.items() if isinstance(v, dict)} if isinstance(steps, dict) else {}


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    partial = folder / f".{STATE}.part"
    partial.write_text(json.dumps({"schema": 1, "steps": state}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / STATE)


def row_data(row: CaptureRow) -> dict[str, Any]:
    """A row as JSON data."""
    return {"name": row.name, "state": row.state, "folder": row.folder, "steps": [asdict(step) for step in row.steps]}
