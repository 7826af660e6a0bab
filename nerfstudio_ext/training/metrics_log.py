"""The numbers of a run over time: running averages, metrics.jsonl and, when it is installed, TensorBoard."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .train_state import to_scalar

logger = logging.getLogger(__name__)


class LossWindow:
    """Sums of what steps report, for the averages of one log line or one status."""

    def __init__(self) -> None:
        self.n_steps = 0
        self.n_rays = 0
        self.sums: dict[str, float] = {}

    def add(self, values: Mapping[str, float], n_rays: int) -> None:
        """Take in one step."""
        self.n_steps += 1
        self.n_rays += n_rays
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Average of each named loss, "mse" included."""
        return {name: total / self.n_steps for name, total in self.sums.items()} if self.n_steps else {}

    def clear(self) -> None:
        """Begin a new window."""
        self.n_steps = self.n_rays = 0
        self.sums = {}

    def state(self) -> dict[str, Tensor]:
        """The window as tensors: a resumed run must continue the average it was in."""
        sums = {f"sum/{name}": to_scalar(float(total)) for name, total in self.sums.items()}
        return {"n_steps": to_scalar(self.n_steps), "n_rays": to_scalar(self.n_rays), **sums}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        self.n_steps, self.n_rays = int(state["n_steps"]), int(state["n_rays"])
        self.sums = {name.removeprefix("sum/"): float(v) for name, v in state.items() if name.startswith("sum/")}


def psnr_of(mse: float | None) -> float:
    """Peak signal-to-noise ratio of a mean squared error of colours in 0..1, dB; NaN without one."""
    if mse is None or not mse >= 0:
        return math.nan
    return -10 * math.log10(max(mse, 1e-10))


class MetricsLog:
    """Appends one JSON object per logged step to metrics.jsonl; a full disk costs lines, never the run.

    Args:
        path: The file; lines of steps after `from_step` are dropped, they were not part of the resumed state.
        from_step: Step the run continues from; 0 begins a new file.
        tensorboard_dir: Where TensorBoard events go when the package is there; None for never.
        warn: Gets one line when the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        from_step: int = 0,
        tensorboard_dir: Path | None = None,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        self.path = path
        self._warn = warn
        self._file: Any = None
        try:
            _drop_lines_after(path, from_step)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            self._fail(error)
        self._board = _tensorboard(tensorboard_dir, from_step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        if self._file is not None:
            try:
                self._file.write(json.dumps(_plain(line)) + "\n")
            except OSError as error:
                self._fail(error)
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, (int, float)) and name != "step" and math.isfinite(value):
                    self._board.add_scalar(f"train/{name}", value, line["step"])

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps: training went back."""
        if self._file is None:
            return
        try:
            self._file.close()
            _drop_lines_after(self.path, step)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._fail(error)
            self._file = None
        if self._board is not None:
            self._board.close()

    def _fail(self, error: OSError) -> None:
        self._file = None
        self._warn(f"{self.path.name} cannot be written ({error.strerror}); training goes on without it")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics.jsonl; a line cut short by a crash is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _tensorboard(folder: Path | None, from_step: int) -> Any:
    if folder is None or importlib.util.find_spec("tensorboard") is None:
        return None
    module = importlib.import_module("torch.utils.tensorboard")
    return module.SummaryWriter(str(folder), purge_step=from_step + 1)
