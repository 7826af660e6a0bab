"""What a benchmark run found, on disk after every phase; and the clock that keeps phases within the budget."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGETS: dict[str, float] = {
    "fused_over_baseline": 20.0, "fused_over_unfused": 2.0, "frame_800_ms": 8.0, "frame_1080_ms": 25.0,
    "train_rays_ratio": 6.0, "step_ms": 3.0, "sooner": 5.0, "graph_ratio": 1.15, "compile_cold_s": 15.0,
    "compile_warm_s": 0.3,
}  # fmt: skip
"""What the kernels must reach on an H200; times are upper bounds, the others lower ones."""

Phase = Callable[[], dict[str, Any]]


class Report:
    """Results by phase, flushed to a file.

    Args:
        path: The JSON file.
        budget: Seconds for everything; phases that would begin later are skipped.
        write: Gets lines for people; default: standard output.
    """

    def __init__(self, path: Path, budget: float, write: Callable[[str], object] | None = None) -> None:
        self.path, self.budget = path, budget
        self._write = write or _to_standard_output
        self.began = time.monotonic()
        self.data: dict[str, Any] = {"schema": 1, "phases": {}, "failed_checks": [], "skipped": {}}
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - self.seconds

    def say(self, text: str) -> None:
        """One line for people."""
        self._write(f"[{self.seconds:6.1f} s] {text}")

    def run(self, name: str, needs: float, phase: Phase) -> dict[str, Any]:
        """Run a phase that takes about `needs` seconds, if there is time; a fault in it does not end the run."""
        if self.left < needs:
            return self._skip(name, f"{needs:.0f} s needed, {self.left:.0f} s left")
        self.say(f"{name} ...")
        began = time.monotonic()
        try:
            found = phase()
        except Exception as fault:  # noqa: BLE001 - later phases are worth having, whatever happened in this one
            reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:400]
            self.fail(f"{name}: {reason}")
            return self._skip(name, reason)
        self.data["phases"][name] = {**found, "seconds": round(time.monotonic() - began, 2)}
        self.flush()
        for key, value in found.items():
            self.say(f"  {key}: {_short(value)}")
        return found

    def fail(self, what: str) -> None:
        """Note a check that did not hold."""
        self.data["failed_checks"].append(what)
        self.say(f"FAILED {what}")
        self.flush()

    def flush(self) -> None:
        """Write everything so far, whole or not at all."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(_plain(self.data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def _skip(self, name: str, reason: str) -> dict[str, Any]:
        self.data["skipped"][name] = reason
        self.say(f"{name} skipped: {reason}")
        self.flush()
        return {}


def verdicts(figures: dict[str, Any]) -> dict[str, str]:
    """Each figure beside its target: met, missed or not measured."""
    found = {}
    for name, target in TARGETS.items():
        value = figures.get(name)
        is_bound = name.endswith(("_ms", "_s"))
        if value is None:
            found[name] = f"not measured (target {'<=' if is_bound else '>='} {target:g})"
        else:
            is_met = value <= target if is_bound else value >= target
            found[name] = (
                f"{value:.3g} {'met' if is_met else 'MISSED'} (target {'<=' if is_bound else '>='} {target:g})"
            )
    return found


def _to_standard_output(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value if isinstance(value, (int, str, bool)) or value is None else str(value)


def _short(value: Any) -> str:
    text = json.dumps(_plain(value))
    return text if len(text) <= 300 else text[:297] + "..."
