"""`nsx render`: a finished run along a camera path, to a film or a folder of pictures. Needs no photos."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import UserError
from .console import Output, clock
from .options import CommonOptions, one_of
from .paths import SPECS, WithPathSettings, build_path

if TYPE_CHECKING:
    from ..camera_paths import CameraPath
    from ..exporters import FrameOptions

FILM_SUFFIXES = (".mp4", ".gif", ".webp")


@dataclass(frozen=True)
class RenderOptions(WithPathSettings, CommonOptions):
    """Options of `nsx render`."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, or a folder that holds runs: the newest is taken."""

    path: Annotated[str, tyro.conf.arg(metavar="SPEC")] = "orbit"
    """orbit, spiral, interpolate, train, test, or a camera_path.json."""

    output_path: Path | None = None
    """.mp4, .gif, .webp, or a folder for pictures (default: renders/SPEC.mp4 in the run, or a folder)."""

    output_format: Literal["video", "images"] | None = None
    """Video or pictures, where the name of the output leaves it open."""

    image_format: Literal["png", "jpeg"] = "png"
    """Format of pictures."""

    jpeg_quality: int = 95
    """JPEG quality, 1 to 100."""

    outputs: str = "rgb"
    """What to write, separated by commas: rgb, depth, alpha, rgba."""

    depth_format: Literal["color", "png16", "npy"] = "color"
    """Depth as colours, as 16-bit PNG (the unit is in the side file), or as float32 arrays in scene units."""

    depth_along: Literal["ray", "z"] = "ray"
    """Depth along the ray, or along the camera's axis."""

    downscale_factor: float = 1.0
    """Divide the width and height of the pictures by this."""

    video_crf: int = 18
    """Quality of .mp4: 0 is lossless, 51 the worst; 18 is hard to tell from the frames."""

    checkpoint: int | None = None
    """Step of the checkpoint to render (default: the newest)."""

    overwrite: bool = False
    """Replace what an earlier export left under the same name."""


def options_for(argv: list[str]) -> tuple[type[RenderOptions], list[str]]:
    """One kind of options."""
    return RenderOptions, argv


def run(options: RenderOptions, out: Output) -> None:
    """Render and say where the result is."""
    source = one_of("render", "RUN", options.run)

    from ..exporters import write_frames
    from ..training.runs import open_run

    opened = open_run(source, checkpoint=options.checkpoint)
    path = shrunk(build_path(options.path, opened.meta, options.path_settings), options.downscale_factor)
    target = target_of(options, opened.path)
    began = time.perf_counter()
    with out.progress() as progress:
        files = write_frames(
            opened.renderer(),
            path,
            target,
            frame_options(options),
            frame=opened.meta.frame,
            content_id=f"{opened.path.name} step {opened.step}",
            progress=progress,
        )
    seconds = time.perf_counter() - began
    where = files[0] if len(files) == 1 else target
    out.say(f"{where}: {len(path)} frames in {clock(seconds)} ({seconds / len(path):.2f} s each)")
    out.result({"run": opened.path, "step": opened.step, "path": options.path, "frames": len(path),
                "output": target, "files": files, "seconds": round(seconds, 3)})  # fmt: skip


def frame_options(options: RenderOptions) -> FrameOptions:
    """The exporter's options."""
    from ..exporters import FrameOptions

    names = tuple(name.strip() for name in options.outputs.split(",") if name.strip())
    return FrameOptions(
        outputs=names,  # type: ignore[arg-type]  # checked, with a message for the user, by the exporter
        image_format=options.image_format,
        jpeg_quality=options.jpeg_quality,
        video_crf=options.video_crf,
        depth_format=options.depth_format,
        depth_along=options.depth_along,
        overwrite=options.overwrite,
    )


def target_of(options: RenderOptions, run_folder: Path) -> Path:
    """Where the result goes: what was asked for, made to agree with `--output-format`."""
    target = options.output_path
    is_still = options.path in ("train", "test")
    if target is None:
        stem = options.path if options.path in SPECS else Path(options.path).stem
        target = run_folder / "renders" / (stem if is_still or options.output_format == "images" else f"{stem}.mp4")
    is_film = target.suffix.lower() in FILM_SUFFIXES
    if options.output_format == "images" and is_film:
        return target.with_suffix("")
    if options.output_format == "video" and not is_film:
        return target.with_name(target.name + ".mp4")
    return target


def shrunk(path: CameraPath, factor: float) -> CameraPath:
    """The path with the width and height of every picture divided by `factor`."""
    if factor == 1.0:
        return path
    if not 1.0 < factor <= 64.0:
        raise UserError(f"{factor:g} is not from 1 to 64", where="--downscale-factor", fix="Choose another factor")
    cameras = [c.resize(max(1, round(c.width / factor)), max(1, round(c.height / factor))) for c in path.cameras]
    return dataclasses.replace(path, cameras=type(path.cameras)(cameras))
