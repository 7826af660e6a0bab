"""One measured figure beside its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What was measured and what is wanted.

    Attributes:
        value: A number, or several.
        target: The limit of each.
        met: Whether all are kept.
        about: What the numbers are, with units.
    """

    value: Any
    target: Any
    met: bool
    about: str

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"value": self.value, "target": self.target, "met": bool(self.met), "about": self.about}
