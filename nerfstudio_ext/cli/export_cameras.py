"""`nsx export cameras`: the cameras of a run for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .console import Output
from .exporting import GeometryOptions, opening


@dataclass(frozen=True)
class ExportCamerasOptions(GeometryOptions):
    """Options of `nsx export cameras`."""

    command: ClassVar[str] = "export cameras"
    summary: ClassVar[str] = "Write the cameras as transforms.json or as a COLMAP model in text."

    format: Literal["transforms", "colmap"] = "transforms"
    """transforms: one transforms.json (nerfstudio, instant-ngp); colmap: a folder with cameras.txt and images.txt."""

    split: Literal["all", "train", "val", "test"] = "all"
    """Which cameras."""


def options_for(argv: list[str]) -> tuple[type[ExportCamerasOptions], list[str]]:
    """One kind of options."""
    return ExportCamerasOptions, argv


def run(options: ExportCamerasOptions, out: Output) -> None:
    """Write the cameras and say where."""
    opened = opening(options, "cameras", "transforms.json" if options.format == "transforms" else "colmap")

    from ..errors import UserError
    from ..exporters.camera_files import write_colmap_text, write_transforms_json

    meta = opened.run.meta
    indices = range(len(meta.image_names)) if options.split == "all" else getattr(meta.split, options.split)
    if not indices:
        raise UserError(f"the scene has no {options.split} images", where=meta.name, fix="Choose another split")
    cameras = meta.training_cameras().select(list(indices))
    names = [meta.image_names[i] for i in indices]
    write = write_transforms_json if options.format == "transforms" else write_colmap_text
    write(cameras, names, opened.target, opened.placement, overwrite=options.overwrite)
    out.say(f"{opened.target}: {len(names)} cameras, {opened.placement.to_json()['frame']}, {opened.placement.up} up")
    out.result({"run": opened.run.path, "output": opened.target, "cameras": len(names),
                "placement": opened.placement.to_json()})  # fmt: skip
