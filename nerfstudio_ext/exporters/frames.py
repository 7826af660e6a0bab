"""Render a camera path to films and folders of images, continuing where an earlier run stopped."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..camera_paths import CameraPath, Similarity, file_stems, numbered_stems
from ..errors import UserError
from ..progress import Progress, SilentProgress
from ..renderer import CancelToken, Renderer
from .options import (
    Container,
    FrameOptions,
    OutputName,
    check_request,
    check_room,
    container_of,
    film_names,
)
from .pictures import SUFFIXES, DepthScale, encode, write_whole
from .sequence import FULL_DISK, FrameFolder, document_text
from .sidecar import describe, settings_hash
from .survey import survey
from .video import encode_film, ffmpeg_program


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
    nothing incomplete ever has its final name.

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
        The films, or all images of the folder, in the order of `options.outputs`.
    Raises:
        UserError: for a request that cannot end well (before any frame is rendered), a target that exists, a full disk
            (finished frames are kept), a failing encoder.
        Cancelled: when `cancel` was set.
    """
    output = Path(output)
    job = _Job(renderer, path, options or FrameOptions(), container_of(output), progress or SilentProgress(), cancel)
    if job.container == "picture":
        image_format: Literal["png", "jpeg"] = "png" if output.suffix.lower() == ".png" else "jpeg"
        job = dataclasses.replace(job, options=dataclasses.replace(job.options, image_format=image_format))
    films = _check(job, output)
    depth = survey(renderer, path, job.options, frame, cancel)
    folder = _frame_folder(job, output, frame, depth, content_id)
    # A film's work folder is ours alone, so one of other settings is simply done anew.
    done = folder.open(overwrite=job.options.overwrite or not job.is_folder)
    _render_missing(job, folder, done, depth or DepthScale(1.0, 2.0))
    if job.is_folder:
        folder.finish()
        return [file for name in job.options.outputs for file in folder.paths(name)]
    return _films_from(job, folder, films)


@dataclass(frozen=True)
class _Job:
    """The arguments of `write_frames`, with its defaults filled in."""

    renderer: Renderer
    path: CameraPath
    options: FrameOptions
    container: Container
    progress: Progress
    cancel: CancelToken | None

    @property
    def is_folder(self) -> bool:
        return self.container == "folder"

    @property
    def is_film(self) -> bool:
        return self.container in ("mp4", "gif", "webp")


def _check(job: _Job, output: Path) -> dict[OutputName, Path]:
    """All refusals that need no rendering; returns the file of each output, none for a folder."""
    check_request(job.path, output, job.options, job.container)
    films = {} if job.is_folder else film_names(output, job.options.outputs)
    for file in films.values():
        if file.exists() and not job.options.overwrite:
            raise UserError("the file exists", where=file, fix="Choose another name or allow overwriting")
    check_room(job.path, output, job.options, job.container)
    if job.is_film:
        ffmpeg_program()
    _say_what_differs(job.path, job.container, job.progress)
    return films


def _say_what_differs(path: CameraPath, container: Container, progress: Progress) -> None:
    for note in path.notes:
        progress.warn(note)
    if path.crop is not None:
        progress.warn("the crop box of the path is not applied: everything is rendered")
    if container == "mp4" and path.size is not None and (path.size[0] % 2 or path.size[1] % 2):
        width, height = path.size
        progress.warn(
            f"H.264 needs even sizes: {width}x{height} is padded to {width + width % 2}x{height + height % 2}"
        )


def _frame_folder(
    job: _Job, output: Path, frame: Similarity | None, depth: DepthScale | None, content_id: str
) -> FrameFolder:
    path, options, container = job.path, job.options, job.container
    stems = file_stems(path.names) if job.is_folder and path.names else numbered_stems(len(path))
    digest = settings_hash(path, options, job.renderer.background, frame, stems, content_id, container)
    files = {}
    for name in options.outputs:
        suffix = SUFFIXES[options.file_format(name, container)]
        prefix = "" if len(options.outputs) == 1 else f"{name}/"
        files[name] = [f"{prefix}{stem}{suffix}" for stem in stems]
    sizes = []
    for width, height in path.cameras.sizes.tolist():
        sizes.append((width + width % 2, height + height % 2) if container == "mp4" else (width, height))
    folder = output if job.is_folder else output.with_name(output.name + ".partial")
    document = describe(path, options, frame, depth, stems, digest) | {"files": files}
    return FrameFolder(folder, files, sizes, document)


def _render_missing(job: _Job, folder: FrameFolder, done: int, depth: DepthScale) -> None:
    n = len(job.path)
    job.progress.stage(f"rendering {n} frames" + (f", {done} of them finished earlier" if done else ""), n)
    n_beyond = 0
    for i in range(n):
        missing = folder.missing(i)
        if missing:
            if job.cancel is not None:
                job.cancel.check()
            camera = job.path.cameras[i]
            frame = job.renderer.render(camera, cancel=job.cancel)
            for name in missing:
                content, beyond = encode(
                    frame,
                    camera,
                    name,
                    job.options.file_format(name, job.container),
                    job.renderer.background,
                    job.options,
                    depth,
                    pad_even=job.container == "mp4",
                    fast=job.is_film,
                )
                folder.write(i, name, content)
                n_beyond += beyond
        job.progress.advance(i + 1)
    if n_beyond:
        largest = 65_535 * depth.png16_unit
        job.progress.warn(f"{n_beyond} depths lie beyond {largest:g} and were cut off there; npy has no such limit")


def _films_from(job: _Job, folder: FrameFolder, films: dict[OutputName, Path]) -> list[Path]:
    for name, film in films.items():
        frames = folder.paths(name)
        if job.is_film:
            job.progress.stage(f"encoding {film.name}")
            encode_film(frames[0].parent, film, job.container, job.path.fps, job.options, cancel=job.cancel)
        else:
            os.replace(frames[0], film)
    document = folder.document | {"finished": True, "files": {name: film.name for name, film in films.items()}}
    first = next(iter(films.values()))
    try:
        write_whole(first.with_name(first.name + ".json"), document_text(document))
    except OSError as error:
        what = "the disk is full" if error.errno in FULL_DISK else f"cannot write: {error.strerror}"
        raise UserError(f"{what} for the side file", where=first, fix="Make room and run the command again") from error
    folder.remove()
    return list(films.values())
