"""`nsx render`: a finished run along a camera path, to a film or a folder of pictures. Needs no photos."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import UserError
from .console import Output, clock
from .crops import WithCropSettings, crop_box
from .options import CommonOptions, DeviceOptions, one_of
from .paths import SPECS, WithPathSettings, build_path

if TYPE_CHECKING:
    from ..camera_paths import CameraPath, Similarity
    from ..camera_paths.similarity import FrameChange
    from ..exporters import FrameOptions
    from ..exporters.frame_work import MakeFrames
    from ..progress import Progress
    from ..training.runs import OpenedRun

FILM_SUFFIXES = (".mp4", ".gif", ".webp")


@dataclass(frozen=True)
class RenderOptions(WithCropSettings, WithPathSettings, DeviceOptions, CommonOptions):
    """Options of `nsx render`."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, a folder that holds runs (the newest is taken), or a scene file (.nsx)."""

    path: Annotated[str, tyro.conf.arg(metavar="SPEC")] = "orbit"
    """orbit, spiral, interpolate, train, test, a camera_path.json, a .csv table or a COLMAP folder; see `nsx path`."""

    output_path: Path | None = None
    """.mp4, .gif, .webp, or a folder for pictures (default: renders/SPEC.mp4 in the run, or a folder)."""

    output_format: Literal["video", "images"] | None = None
    """Video or pictures, where the name of the output leaves it open."""

    image_format: Literal["png", "jpeg"] = "png"
    """Format of pictures."""

    jpeg_quality: int = 95
    """JPEG quality, 1 to 100."""

    outputs: str = "rgb"
    """What to write, separated by commas: rgb, depth, normal, alpha, rgba."""

    depth_format: Literal["color", "png16", "npy", "exr"] = "color"
    """Depth as colours, as 16-bit PNG (the unit is in the side file), or as float32 in units of the capture (.npy array
    or OpenEXR)."""

    depth_along: Literal["ray", "z"] = "ray"
    """Depth along the ray, or along the camera's axis."""

    downscale_factor: float = 1.0
    """Divide the width and height of the pictures by this."""

    video_crf: int = 18
    """Quality of .mp4: 0 is lossless, 51 the worst; 18 is hard to tell from the frames."""

    webp_quality: int = 85
    """Quality of .webp, 1 to 100."""

    samples: int = 1
    """Rays per pixel along each axis: 2 takes four rays per pixel and smooths edges."""

    frames: Annotated[str | None, tyro.conf.arg(metavar="FIRST:LAST")] = None
    """Only these frames of the path, counted from 1, such as 10:20, 10: or 7. A folder may be filled in parts."""

    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Render every N-th frame, from the I-th. N processes with 1/N to N/N share the work on one folder; the frames are
    those of a single run. A film is then encoded by the same command without --shard."""

    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS|local")] = None
    """Let a Ray cluster make the frames: HOST:PORT, ray://HOST:PORT or auto; `local` starts one on this machine. The
    files are those of a single process. Needs the extra [cluster]."""

    ray_workers: int | None = None
    """At most so many workers, each one thread (default: all processors of the cluster)."""

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

    from ..camera_paths.world_frame import stamp_world_frame
    from ..exporters import write_frames
    from ..training.runs import open_run
    from ..training.scene_file import chosen_world_frame

    opened = open_run(source, checkpoint=options.checkpoint, device=options.device)
    path = shrunk(build_path(options.path, opened.meta, options.path_settings), options.downscale_factor)
    world = chosen_world_frame(opened.path)
    crop = crop_box(options.crop_settings, world_to_training(opened.meta.frame, world), opened.meta.background)
    if crop is not None:
        path = dataclasses.replace(path, crop=crop)
    target = target_of(options, opened.results)
    settings = frame_options(options, len(path))
    began = time.perf_counter()
    with out.progress() as progress, frames_elsewhere(options, opened, progress) as make_frames:
        files = write_frames(
            opened.renderer(),
            path,
            target,
            settings,
            frame=opened.meta.frame,
            content_id=content_id(opened),
            progress=progress,
            make_frames=make_frames,
        )
    stamp_world_frame(side_file(target, files), world)
    seconds = time.perf_counter() - began
    first, last = settings.frames or (1, len(path))
    i, n = settings.shard or (1, 1)
    n_frames = len(range(first - 1 + (i - first) % n, last, n))
    where = files[0] if len(files) == 1 else target
    took = f"{n_frames} frames in {clock(seconds)} ({seconds / max(n_frames, 1):.2f} s each)"
    if files:
        out.say(f"{where}: {took}")
    else:
        out.say(
            f"{target}: shard {i}/{n}: {took}. When all are done, the same command without --shard encodes the film."
        )
    out.result({"run": opened.path, "step": opened.step, "path": options.path, "frames": n_frames,
                "output": target, "files": files, "seconds": round(seconds, 3)})  # fmt: skip


@contextmanager
def frames_elsewhere(options: RenderOptions, opened: OpenedRun, progress: Progress) -> Iterator[MakeFrames | None]:
    """What makes the frames on a Ray cluster, for as long as the context lasts; None without --ray."""
    if options.ray_workers is not None and (options.ray is None or options.ray_workers < 1):
        fix = "Give --ray ADDRESS|local, and a number from 1"
        raise UserError("there are no workers to count", where=f"--ray-workers {options.ray_workers}", fix=fix)
    if options.ray is None:
        yield None
        return
    from ..cluster.ray_cluster import connected
    from ..cluster.ray_frames import frames_on_ray
    from .environment import usable_cores

    progress.stage("reaching the Ray cluster")
    with connected(options.ray, options.ray_workers or usable_cores()) as ray:
        yield frames_on_ray(ray, opened, options.ray_workers, progress)


def content_id(opened: OpenedRun) -> str:
    """Names the weights behind a renderer: the same for a run and for the scene file made from it."""
    import torch

    from ..methods import method_name

    weights = hashlib.sha256()
    for name, tensor in sorted(opened.method.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{method_name(opened.config.method)} step {opened.step} {weights.hexdigest()}"


def side_file(target: Path, files: list[Path]) -> Path:
    """The JSON file that the exporter wrote beside its result."""
    return files[0].with_name(files[0].name + ".json") if files and not target.is_dir() else target / "frames.json"


def frame_options(options: RenderOptions, n_frames: int) -> FrameOptions:
    """The exporter's options for a path of so many frames."""
    from ..exporters import FrameOptions

    names = tuple(name.strip() for name in options.outputs.split(",") if name.strip())
    return FrameOptions(
        outputs=names,  # type: ignore[arg-type]  # checked, with a message for the user, by the exporter
        image_format=options.image_format,
        jpeg_quality=options.jpeg_quality,
        video_crf=options.video_crf,
        depth_format=options.depth_format,
        depth_along=options.depth_along,
        webp_quality=options.webp_quality,
        samples=options.samples,
        frames=frame_range(options.frames, n_frames),
        shard=shard_of(options.shard),
        overwrite=options.overwrite,
    )


def frame_range(text: str | None, n_frames: int) -> tuple[int, int] | None:
    """First and last frame from `FIRST:LAST`, where either may be left out, or from one number.

    Raises:
        UserError: if the text is neither.
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)) or text in ("", ":"):
        raise UserError(f"'{text}' is no range of frames", where="--frames", fix="Write it as 10:20, 10: or 7")
    start = int(first or 1)
    return start, int(last or n_frames) if colon else start


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Number and count from `I/N`.

    Raises:
        UserError: if the text is not two whole numbers.
    """
    if text is None:
        return None
    i, _, n = text.partition("/")
    if not (i.isascii() and i.isdigit() and n.isascii() and n.isdigit()):
        raise UserError(f"'{text}' is no shard", where="--shard", fix="Write it as I/N, such as 2/4")
    return int(i), int(n)


def world_to_training(frame: Similarity, world: Similarity | None) -> FrameChange:
    """From the world frame of a run (its capture's own where nobody chose one) to its training frame."""
    from ..camera_paths.similarity import FrameChange

    return FrameChange.of(world).inverse().then(FrameChange.of(frame))


def target_of(options: RenderOptions, run_folder: Path) -> Path:
    """Where the result goes: what was asked for, made to agree with `--output-format`."""
    target = options.output_path
    is_still = options.path in ("train", "test") or Path(options.path).is_dir()
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
