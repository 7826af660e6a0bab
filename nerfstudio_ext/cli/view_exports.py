"""What a run can be exported to from the page, besides pictures: the same functions as `nsx export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ..progress import Progress
    from ..renderer import CancelToken
    from ..training.runs import OpenedRun
    from ..viewer.render_queue import ExportKind, ExportRequest


def exports_of(opened: OpenedRun) -> dict[str, ExportKind]:
    """The exports of a run."""
    from ..viewer.render_queue import ExportKind

    def scene(request: ExportRequest, progress: Progress, cancel: CancelToken) -> list[Path]:
        from ..training.scene_file import SUFFIX, write_scene_file

        progress.stage("packing")
        return [write_scene_file(opened, request.folder / f"{request.name}{SUFFIX}", overwrite=True)]

    hint = "Weights, cameras and thumbnails in one file that `nsx view` opens on any machine."
    return {"scene": ExportKind("Export scene file", hint, scene)}
