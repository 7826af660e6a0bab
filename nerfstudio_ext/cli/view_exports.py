"""What a run can be exported to from the page, besides pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.runs import OpenedRun
    from ..viewer.render_queue import ExportKind


def exports_of(opened: OpenedRun) -> dict[str, ExportKind]:
    """The exports that a run's method can do."""
    return {}
