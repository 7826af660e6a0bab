"""The 82 cases of bad input and faults, and who holds each; `test_ledger` fails on one that nobody holds.

A test holds a case by the decorator `@holds("A1", "A2")`, a table by `register(rows)`, a test of another area by its
name in `ELSEWHERE`. A: photos; B: poses and features; C: capture files; D: checkpoints and models; F: run-time faults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

_COUNTS = {"A": 25, "B": 8, "C": 15, "D": 11, "F": 23}
ALL_CASES = tuple(f"{letter}{number}" for letter, count in _COUNTS.items() for number in range(1, count + 1))

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "F15": ("tests/viewer/test_gate.py::test_hostile_visitors_harm_nobody",),
    "F16": ("tests/viewer/test_gate.py::test_the_server_asks_the_gate_about_everything",),
    "F17": ("tests/viewer/test_gate.py::test_uploads_are_bounded_and_never_name_a_path",),
    "F18": ("tests/poses/test_video.py::test_the_rotation_flag_is_applied",),
    "F21": ("tests/stega/test_extract_command.py::test_unusual_pictures",),
    "B7": ("tests/poses/test_real_solver.py::test_a_known_room_is_solved_twice_the_same",),
    "F6": (
        "tests/training/test_resume.py::test_resumed_equals_uninterrupted",
        "tests/training/test_resume_ngp.py::test_resumed_equals_uninterrupted_at_three_points",
    ),
    "F8": (
        "tests/training/test_trainer.py::test_a_ruinous_step_is_skipped_and_counted",
        "tests/training/test_trainer.py::test_many_in_a_row_roll_back_at_half_the_rate",
        "tests/training/test_trainer.py::test_it_gives_up_after_three_and_keeps_the_last_good",
        "tests/training/test_trainer.py::test_ruined_weights_are_never_saved",
    ),
    "A23": ("tests/scenes/test_images.py::test_wide_gamut_is_brought_to_srgb_and_srgb_left_alone",),
}
"""Cases held by tests of other folders: `path/of/test_file.py::name_of_the_test`."""

CANNOT: dict[str, str] = {}
"""Cases that do not apply to this program, or that a test cannot show, with the reason."""

MISSING: frozenset[str] = frozenset()
"""Cases that nobody holds yet; must become empty."""

_HELD: dict[str, set[str]] = {case: set() for case in ALL_CASES}
_Test = TypeVar("_Test", bound=Callable[..., object])


@dataclasses.dataclass(frozen=True)
class Row:
    """One input that must be refused in one line.

    Args:
        case: The case it belongs to ("C4").
        name: What is special about the input, unique within the case.
        make: Writes the input into an empty folder, from a generator of its own, and returns the words for `nsx`.
        names: What the line must name.
        says: Regular expression that the line must contain.
        code: Exit code.
    """

    case: str
    name: str
    make: Callable[[Path, np.random.Generator], Sequence[str]]
    names: str | tuple[str, ...]
    says: str | tuple[str, ...] = ()
    code: int = 2

    def __str__(self) -> str:
        return f"{self.case} {self.name}"


def holds(*cases: str) -> Callable[[_Test], _Test]:
    """Say that a test holds these cases."""

    def mark(test: _Test) -> _Test:
        for case in cases:
            _HELD[case].add(f"{test.__module__}.{getattr(test, '__qualname__', test)}")
        return test

    return mark


def register(rows: Sequence[Row]) -> Sequence[Row]:
    """Say that a table holds the cases of its rows; returns it for `parametrize`."""
    names = [str(row) for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"two rows have one name: {sorted(name for name in names if names.count(name) > 1)}")
    for row in rows:
        _HELD[row.case].add(str(row))
    return rows


def holders() -> dict[str, set[str]]:
    """Who holds each case, of the modules that have been imported."""
    return {case: set(tests) for case, tests in _HELD.items()}
