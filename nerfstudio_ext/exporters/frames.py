"""Render a camera path to films and folders of images, continuing where an earlier run stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..camera_paths import CameraPath, Similarity, file_stems, numbered_stems
from ..errors import UserError
from ..progress import Progress, SilentProgress
from ..renderer import CancelToken, CanCrop, Renderer
from .films import check_films, write_films
from .options import Container, FrameOptions, check_request, check_room, container_of
from .oversampling import OversamplingRenderer
from .pictures import SUFFIXES, DepthScale, Shot, encode
from .sequence import FrameFolder
from .sidecar import describe, settings_hash
from .survey import survey


def write_frames(
    renderer: Renderer,
    path: CameraPath,
    output: Path,
    options: FrameOptions | None = None,
    *,
    frame: Similarity | None = None,
    content_id: str = "",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> list[Path]:
    """Render every camera of a path into a film or a folder of images.

    The name decides: .mp4, .gif, .webp, one .png or .jpg for a path of one camera, else a folder. Beside a film lies
    `NAME.json`, in a folder `frames.json`: cameras in training and source frame, depth units. Frames are kept until the
    export is complete (a film's in `NAME.partial`), so the same call after a crash, a full disk or a cancel continues;
    nothing incomplete ever has its final name. The path's crop box is applied.

    Args:
        renderer: The scene.
        path: Cameras in the training frame. Its notes are passed on as warnings.
        output: File or folder to write.
        options: What to write; the default is colour.
        frame: From the source frame to the training frame (a `SceneFrame` will do). With it depth is written in
            source units, and the side file holds both poses.
        content_id: Names the weights behind the renderer (run and step): frames of other weights are not continued.
        progress: Told about every frame.
        cancel: Stops the work.
    Returns:
        The films, or all images that were asked for, in the order of `options.outputs`. Nothing for one shard of a
        film: the film is made by a last call without a shard.
    Raises:
        UserError: for a request that cannot end well (before any frame is rendered), a target that exists, a full disk
            (finished frames are kept), a failing encoder.
        Cancelled: when `cancel` was set.
    """
    output = Path(output)
    job = _job(renderer, path, output, options or FrameOptions(), progress or SilentProgress(), cancel)
    digest = _digest(job, frame, content_id)
    check_room(job.path, output, job.options, job.container)
    if not job.is_folder:
        check_films(output, job.options, job.container, digest)
    _say_what_differs(job.path, job.container, job.progress)
    depth = survey(job.renderer, path, job.options, frame, cancel)
    folder = _frame_folder(job, output, frame, depth, digest)
    # A film's work folder is ours alone, so one of other settings is simply done anew.
    folder.open(overwrite=job.options.overwrite or not job.is_folder)
    to_source = torch.eye(3, dtype=torch.float64) if frame is None else frame.rotation.T
    _render_missing(job, folder, depth or DepthScale(1.0, 2.0), to_source)
    if job.is_folder:
        folder.finish()
        return [file for name in job.options.outputs for file in folder.paths(name, job.indices)]
    if job.options.shard is not None:
        return []
    return write_films(folder, output, job.container, job.path, job.options, job.progress, cancel)


@dataclass(frozen=True)
class _Job:
    """The arguments of `write_frames`, with its defaults filled in.

    Attributes:
        renderer: With crop box and oversampling.
        path: All frames of what is written: of a film only those in the range asked for.
        numbers: Number of each frame of `path` in the path that was given, from 0.
        indices: Frames of `path` that this call renders.
        options: The request.
        container: What is written.
        progress: Told about every frame.
        cancel: Stops the work.
    """

    renderer: Renderer
    path: CameraPath
    numbers: range
    indices: list[int]
    options: FrameOptions
    container: Container
    progress: Progress
    cancel: CancelToken | None

    @property
    def is_folder(self) -> bool:
        return self.container == "folder"


def _job(
    renderer: Renderer,
    path: CameraPath,
    output: Path,
    options: FrameOptions,
    progress: Progress,
    cancel: CancelToken | None,
) -> _Job:
    container = container_of(output)
    if container == "picture":
        image_format: Literal["png", "jpeg"] = "png" if output.suffix.lower() == ".png" else "jpeg"
        options = dataclasses.replace(options, image_format=image_format)
    check_request(path, output, options, container)
    if path.crop is not None:
        if not isinstance(renderer, CanCrop):
            raise UserError("this renderer cannot apply the crop box of the path", fix="Remove the crop box")
        renderer = renderer.cropped(path.crop)
    if options.samples > 1:
        renderer = OversamplingRenderer(renderer, options.samples)
    first, last = options.frames or (1, len(path))
    numbers = range(len(path))
    wanted = range(first - 1, last)
    if container != "folder":
        names = None if path.names is None else path.names[first - 1 : last]
        path = dataclasses.replace(path, cameras=path.cameras[first - 1 : last], names=names)
        numbers, wanted = wanted, range(len(path))
    i, n = options.shard or (1, 1)
    mine = [k for k in wanted if k % n == i - 1]
    return _Job(renderer, path, numbers, mine, options, container, progress, cancel)


def _say_what_differs(path: CameraPath, container: Container, progress: Progress) -> None:
    for note in path.notes:
        progress.warn(note)
    if container == "mp4" and path.size is not None and (path.size[0] % 2 or path.size[1] % 2):
        width, height = path.size
        progress.warn(
            f"H.264 needs even sizes: {width}x{height} is padded to {width + width % 2}x{height + height % 2}"
        )


def _stems(job: _Job) -> list[str]:
    if job.is_folder and job.path.names:
        return file_stems(job.path.names)
    return numbered_stems(job.numbers)


def _digest(job: _Job, frame: Similarity | None, content_id: str) -> str:
    background = job.renderer.background
    return settings_hash(job.path, job.options, background, frame, _stems(job), content_id, job.container)


def _frame_folder(
    job: _Job, output: Path, frame: Similarity | None, depth: DepthScale | None, digest: str
) -> FrameFolder:
    options, stems = job.options, _stems(job)
    files = {}
    for name in options.outputs:
        suffix = SUFFIXES[options.file_format(name, job.container)]
        prefix = "" if len(options.outputs) == 1 else f"{name}/"
        files[name] = [f"{prefix}{stem}{suffix}" for stem in stems]
    folder = output if job.is_folder else output.with_name(output.name + ".partial")
    document = describe(job.path, options, frame, depth, stems, digest) | {"files": files}
    return FrameFolder(folder, files, document, options.shard)


def _render_missing(job: _Job, folder: FrameFolder, depth: DepthScale, to_source: torch.Tensor) -> None:
    n = len(job.indices)
    done = sum(not folder.missing(i) for i in job.indices)
    job.progress.stage(f"rendering {n} frames" + (f", {done} of them finished earlier" if done else ""), n)
    n_beyond = 0
    for place, i in enumerate(job.indices):
        missing = folder.missing(i)
        if missing:
            if job.cancel is not None:
                job.cancel.check()
            camera = job.path.cameras[i]
            rendered = job.renderer.render(camera, cancel=job.cancel)
            shot = Shot(rendered, camera, job.renderer.background, to_source)
            for name in missing:
                content, beyond = encode(shot, name, job.options, depth, job.container)
                folder.write(i, name, content)
                n_beyond += beyond
        job.progress.advance(place + 1)
    if n_beyond:
        largest = 65_535 * depth.png16_unit
        job.progress.warn(
            f"{n_beyond} depths lie beyond {largest:g} and were cut off there; npy and exr have no such limit"
        )
