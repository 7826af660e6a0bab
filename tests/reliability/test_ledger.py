"""Every one of the 82 cases is held by a test, or the reason why it cannot be stands beside it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from tests.reliability.cases import ALL_CASES, CANNOT, ELSEWHERE, MISSING, holders

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def held() -> set[str]:
    for path in HERE.glob("test_*.py"):
        importlib.import_module(f"tests.reliability.{path.stem}")
    return {case for case, tests in holders().items() if tests} | set(ELSEWHERE)


def test_there_are_82_cases() -> None:
    assert len(ALL_CASES) == len(set(ALL_CASES)) == 82


def test_every_case_is_held_or_has_a_reason() -> None:
    nobody = set(ALL_CASES) - held() - set(CANNOT) - MISSING
    assert not nobody, f"nobody holds {sorted(nobody)}"
    found = MISSING & (held() | set(CANNOT))
    assert not found, f"{sorted(found)} are held now: take them out of MISSING"


def test_tests_of_other_folders_that_hold_a_case_are_there() -> None:
    for case, tests in ELSEWHERE.items():
        assert case in ALL_CASES and tests
        for test in tests:
            path, _, name = test.partition("::")
            names = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")}
            assert name in names, f"{case}: there is no {test}"


def test_every_reason_is_one() -> None:
    assert all(case in ALL_CASES and len(reason.split()) > 5 for case, reason in CANNOT.items())
