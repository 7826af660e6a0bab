"""Render a camera path to films and folders of images, continuing where an earlier run stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..camera_paths import CameraPath, Similarity, file_stems, numbered_stems
from ..progress import Progress, SilentProgress
from ..renderer import CancelToken, Renderer
from .films import check_films, write_films
from .frame_work import FrameTask, FrameWork, MakeFrames, frames_made_here, prepared
from .options import Container, FrameOptions, check_request, check_room, container_of
from .pictures import SUFFIXES, DepthScale
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
    make_frames: MakeFrames | None = None,
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
        make_frames: Makes the frames elsewhere, with the same bytes; default: here, one after the other.
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
    work = FrameWork(job.options, job.container, depth or DepthScale(1.0, 2.0), to_source, path.crop)
    _make_missing(job, folder, work, make_frames or frames_made_here(job.renderer, cancel))
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
    renderer = prepared(renderer, path.crop, options.samples)
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


def _make_missing(job: _Job, folder: FrameFolder, work: FrameWork, make_frames: MakeFrames) -> None:
    n = len(job.indices)
    missing = {i: tuple(folder.missing(i)) for i in job.indices}
    tasks = [FrameTask(i, job.path.cameras[i], names) for i, names in missing.items() if names]
    done = n - len(tasks)
    job.progress.stage(f"rendering {n} frames" + (f", {done} of them finished earlier" if done else ""), n)
    n_beyond = 0
    for i, files in make_frames(work, tasks):
        for file in files:
            folder.write(i, file.output, file.content)
            n_beyond += file.n_beyond
        done += 1
        job.progress.advance(done)
    if n_beyond:
        largest = 65_535 * work.depth.png16_unit
        job.progress.warn(
            f"{n_beyond} depths lie beyond {largest:g} and were cut off there; npy and exr have no such limit"
        )
