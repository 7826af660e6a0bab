"""What a run can be exported to from the page, besides pictures: the same functions as `nsx export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..exporters.placement import Placement
    from ..progress import Progress
    from ..renderer import CancelToken
    from ..training.runs import OpenedRun
    from ..viewer.render_queue import ExportKind, ExportRequest

AXES: dict[str, tuple[str, tuple[str, ...]]] = {"axis": ("Up axis", ("z", "y"))}


def exports_of(run: Callable[[], OpenedRun]) -> dict[str, ExportKind]:
    """The exports of a run; a method that cannot do one of them says so when it is asked.

    Args:
        run: The run as it is when an export starts; one that still trains is exported as it was saved last.
    """
    from ..viewer.render_queue import ExportKind

    points = ExportKind(
        "Points", "A coloured point cloud with normals (.ply), in the world frame.",
        lambda request, progress, cancel: _points(run(), request, progress, cancel),
        {"n_points": ("Points", 1000, 10_000_000, 1_000_000)}, AXES,
    )  # fmt: skip
    mesh = ExportKind(
        "Mesh", "A surface with a texture (.glb, .obj) or with colours (.ply), in the world frame.",
        lambda request, progress, cancel: _mesh(run(), request, progress, cancel),
        {"resolution": ("Voxels", 32, 1024, 256)},
        {"suffix": ("Format", (".glb", ".obj", ".ply"))},
    )  # fmt: skip
    cameras = ExportKind(
        "Cameras", "transforms.json as nerfstudio and instant-ngp read it, in the world frame.",
        lambda request, progress, cancel: _cameras(run(), request), {}, AXES,
    )  # fmt: skip
    scene = ExportKind(
        "Scene file", "Weights, cameras and thumbnails in one file that `nsx view` opens on any machine.",
        lambda request, progress, cancel: _scene(run(), request, progress),
    )  # fmt: skip
    return {"points": points, "mesh": mesh, "cameras": cameras, "scene": scene}


def _placement(opened: OpenedRun, request: ExportRequest, up: object) -> Placement:
    from ..exporters.placement import Placement

    return Placement.of(opened.meta.frame, request.world, up="y" if up == "y" else "z")


def _points(opened: OpenedRun, request: ExportRequest, progress: Progress, cancel: CancelToken) -> list[Path]:
    from ..exporters.points import PointOptions, export_points
    from ..scenes.viewpoints import viewpoints

    target = request.folder / f"{request.name}.ply"
    options = PointOptions(cast(int, request.options["n_points"]), crop=request.crop, overwrite=True)
    cameras = viewpoints(opened.meta)
    placement = _placement(opened, request, request.options["axis"])
    export_points(opened.renderer(), cameras, target, options, placement, progress=progress, cancel=cancel)
    return [target, target.with_name(target.name + ".json")]


def _mesh(opened: OpenedRun, request: ExportRequest, progress: Progress, cancel: CancelToken) -> list[Path]:
    from ..exporters.mesh import MeshOptions, export_mesh
    from ..scenes.viewpoints import viewpoints
    from .export_mesh import density_of

    suffix = str(request.options["suffix"])
    target = request.folder / f"{request.name}{suffix}"
    colors: Literal["vertex", "texture"] = "vertex" if suffix == ".ply" else "texture"
    options = MeshOptions(cast(int, request.options["resolution"]), crop=request.crop, colors=colors, overwrite=True)
    cameras = viewpoints(opened.meta)
    placement = _placement(opened, request, "y" if suffix == ".glb" else "z")
    report = export_mesh(
        opened.renderer(), density_of(opened), cameras, target, options, placement, progress=progress, cancel=cancel
    )
    return [*report.files, target.with_name(target.name + ".json")]


def _cameras(opened: OpenedRun, request: ExportRequest) -> list[Path]:
    from ..exporters.camera_files import write_transforms_json

    target = request.folder / f"{request.name}.json"
    placement = _placement(opened, request, request.options["axis"])
    cameras, names = opened.meta.training_cameras(), opened.meta.image_names
    return [write_transforms_json(cameras, names, target, placement, overwrite=True)]


def _scene(opened: OpenedRun, request: ExportRequest, progress: Progress) -> list[Path]:
    from ..training.scene_file import SUFFIX, write_scene_file

    progress.stage("packing")
    return [write_scene_file(opened, request.folder / f"{request.name}{SUFFIX}", overwrite=True)]
