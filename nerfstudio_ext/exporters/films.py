"""From finished frames to films under their final names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..camera_paths import CameraPath
from ..errors import UserError
from ..progress import Progress
from ..renderer import CancelToken
from .options import Container, FrameOptions, film_names
from .pictures import write_whole
from .sequence import FULL_DISK, FrameFolder, digest_of, document_text, noted_files, read_manifest
from .video import encode_film, ffmpeg_program


def check_films(output: Path, options: FrameOptions, container: Container, digest: str) -> None:
    """Refuse to replace files, except those that an interrupted run with the same settings has finished.

    Args:
        output: The film, or the single picture.
        options: The request.
        container: What is written.
        digest: Hash of the settings.
    Raises:
        UserError: if a file is in the way, or there is no video encoder.
    """
    work = output.with_name(output.name + ".partial")
    earlier = read_manifest(work)
    ours = noted_files(work) if earlier is not None and earlier.get("settings_sha256") == digest else {}
    for file in film_names(output, options.outputs).values():
        if file.exists() and not options.overwrite and ours.get(_note(file)) != digest_of(file):
            raise UserError("the file exists", where=file, fix="Choose another name or allow overwriting")
    if container != "picture":
        ffmpeg_program()


def write_films(
    folder: FrameFolder,
    output: Path,
    container: Container,
    path: CameraPath,
    options: FrameOptions,
    progress: Progress,
    cancel: CancelToken | None,
) -> list[Path]:
    """Encode the finished frames of a work folder and remove it.

    Each film is noted in the folder before it appears under its name, so that a run killed in between knows it as
    its own; the side file comes last, and the folder goes when everything is there.

    Args:
        folder: The finished frames.
        output: The first film, or the single picture.
        container: What is written.
        path: Whose frames they are.
        options: Qualities and outputs.
        progress: Told about every film.
        cancel: Stops the encoder.
    Returns:
        The films.
    Raises:
        UserError: if the encoder fails or the disk is full; the frames stay.
        Cancelled: when `cancel` was set.
    """
    films = film_names(output, options.outputs)
    is_panorama = all(camera.lens.kind == "equirectangular" for camera in path.cameras)
    for stale in folder.folder.rglob("film-*"):
        stale.unlink(missing_ok=True)
    for name, film in films.items():
        noted = folder.noted(_note(film))
        if noted is not None and noted == digest_of(film):
            continue
        frames = folder.paths(name)
        finished = frames[0]
        if container != "picture":
            progress.stage(f"encoding {film.name}")
            finished = encode_film(frames, film, container, path.fps, options, is_panorama=is_panorama, cancel=cancel)
        try:
            folder.note(_note(film), digest_of(finished) or "")
            os.replace(finished, film)
        except OSError as error:
            raise _unwritten(error, film) from error
    first = next(iter(films.values()))
    _write_side_file(folder, first, list(films.items()))
    folder.remove()
    return list(films.values())


def _note(film: Path) -> str:
    """How a film is called in the journal of its work folder."""
    return f"../{film.name}"


def _write_side_file(folder: FrameFolder, first: Path, films: Sequence[tuple[str, Path]]) -> None:
    state = {
        "finished": True,
        "files": {name: film.name for name, film in films},
        "sha256": {film.name: digest_of(film) for _, film in films},
    }
    try:
        write_whole(first.with_name(first.name + ".json"), document_text(folder.document | state))
    except OSError as error:
        raise _unwritten(error, first) from error


def _unwritten(error: OSError, film: Path) -> UserError:
    what = "the disk is full" if error.errno in FULL_DISK else f"cannot write: {error.strerror}"
    return UserError(what, where=film, fix="Make room and run the same command again: the frames are kept")
