"""Versions of libraries below which files from strangers are not opened: their readers can be made to run code or to
eat all memory. Looked at where such files are read, because what pip was told says nothing about what is imported.
"""

from __future__ import annotations

import importlib
import re

from .errors import UserError

FLOORS = {
    "torch": ((2, 10), "its safe reader can be made to run code (CVE-2025-32434, CVE-2026-24747)"),
    "PIL": ((12, 2), "a small picture can eat all memory (CVE-2026-40192)"),
}
"""Lowest version of each package, by the name it is imported under, and what is wrong with those before it."""
_INSTALLED_AS = {"PIL": "pillow"}


def require_floor(package: str) -> None:
    """Refuse to go on with a version that must not read files from strangers.

    Args:
        package: A name in `FLOORS`.
    Raises:
        UserError: with the version found, the one needed, and the reason.
    """
    floor, reason = FLOORS[package]
    found = str(importlib.import_module(package).__version__)
    if _numbers(found) < floor:
        name, wanted = _INSTALLED_AS.get(package, package), ".".join(map(str, floor))
        raise UserError(
            f"{name} {found} is too old to read files safely: {reason}", where=name,
            fix=f"Install {wanted} or newer: pip install '{name}>={wanted}'",
        )  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.10.0a0+git` gives (2, 10, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
