"""Every error that a user can meet says what to do: no `UserError` is made without a fix."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "nerfstudio_ext"
ERRORS = {"UserError", "DamagedImage", "PosesNotFound"}


def without_fix(source: str) -> list[str]:
    """The errors a source makes that say nothing about a way out."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "id", getattr(call.func, "attr", "")) in ERRORS]
    return [ast.unparse(call) for call in named if not {"fix", None} & {word.arg for word in call.keywords}]


def test_every_error_has_a_fix() -> None:
    found = {str(path): without_fix(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(found) > 100 and not {path: calls for path, calls in found.items() if calls}


def test_the_rule_itself_refuses() -> None:
    assert without_fix("raise UserError('broken', where=path)")
    assert not without_fix("raise errors.UserError('broken', fix='Mend it')")
