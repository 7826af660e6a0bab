"""Films from a folder of PNG frames: H.264 in mp4, animated GIF and WebP, all through ffmpeg."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..renderer import CancelToken
from .options import Container, FrameOptions
from .spherical import mark_spherical

POLL_S = 0.05
_NO_ENCODER = "Install imageio-ffmpeg, or write to a folder of images"


def ffmpeg_program() -> str:
    """Path of an ffmpeg: the one packaged with imageio-ffmpeg, or what IMAGEIO_FFMPEG_EXE names.

    Raises:
        UserError: if there is none.
    """
    try:
        import imageio_ffmpeg

        program = str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UserError(f"no video encoder: {error}", fix=_NO_ENCODER) from error
    if shutil.which(program) is None:
        raise UserError(f"no video encoder: '{program}' cannot be run", where="IMAGEIO_FFMPEG_EXE", fix=_NO_ENCODER)
    return program


def encode_film(
    frames: Sequence[Path],
    target: Path,
    container: Container,
    fps: float,
    options: FrameOptions,
    *,
    is_panorama: bool = False,
    cancel: CancelToken | None = None,
) -> Path:
    """Encode frames into one file beside them, for the caller to move to its final name.

    Args:
        frames: `frame_00001.png` and so on, without gaps, in one folder, which also takes the unfinished film.
        target: Name of the film, for messages.
        container: mp4, gif or webp.
        fps: Frames per second.
        options: Qualities.
        is_panorama: Describe an mp4 as equirectangular.
        cancel: Stops the encoder.
    Returns:
        The complete film.
    Raises:
        UserError: if the encoder fails; the frames stay.
        Cancelled: when `cancel` was set.
    """
    # An encoder outlives the process that started it when that is killed: each has a file of its own.
    folder, partial = frames[0].parent, frames[0].parent / f"film-{os.getpid()}.{container}"
    start = str(int(frames[0].stem.rpartition("_")[2]))
    source = ["-framerate", f"{fps:.6f}", "-start_number", start, "-i", "frame_%05d.png"]
    is_complete = False
    try:
        if container == "gif":
            # One palette for the whole film: per-frame palettes flicker.
            palette = "palettegen=reserve_transparent=1:stats_mode=full"
            _run([*source, "-vf", palette, "-frames:v", "1", "-update", "1", "palette.png"], folder, cancel)
            use = "[0:v][1:v]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
            _run([*source, "-i", "palette.png", "-lavfi", use, "-loop", "0", partial.name], folder, cancel)
        elif container == "webp":
            quality = ["-c:v", "libwebp_anim", "-pix_fmt", "bgra", "-quality", str(options.webp_quality)]
            _run([*source, *quality, "-loop", "0", partial.name], folder, cancel)
        else:
            _run([*source, *_h264(options), partial.name], folder, cancel)
            if is_panorama:
                described = partial.with_name(f"film-360-{os.getpid()}.mp4")
                mark_spherical(partial, described)
                os.replace(described, partial)
        is_complete = True
    except OSError as error:
        raise _failure(target, str(error.strerror)) from error
    except _EncoderFailed as error:
        raise _failure(target, str(error)) from error
    finally:
        if not is_complete:
            partial.unlink(missing_ok=True)
    return partial


def _h264(options: FrameOptions) -> list[str]:
    # Tagged and converted as BT.709: untagged files are guessed by size, and colours shift between players.
    matrix = "scale=out_color_matrix=bt709:out_range=tv"
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    # The number of threads decides where the encoder may look ahead: fixed, every machine writes the same film.
    codec = ["-c:v", "libx264", "-preset", "medium", "-threads", "4", "-crf", str(options.video_crf)]
    return ["-vf", matrix, *codec, "-pix_fmt", "yuv420p", *tags, "-movflags", "+faststart"]


class _EncoderFailed(Exception):
    """The last line ffmpeg wrote before it gave up."""


def _run(arguments: list[str], folder: Path, cancel: CancelToken | None) -> None:
    command = [ffmpeg_program(), "-hide_banner", "-nostdin", "-loglevel", "error", "-y", *arguments]
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            try:
                while process.poll() is None:
                    if cancel is not None:
                        cancel.check()
                    time.sleep(POLL_S)
            finally:
                if process.poll() is None:
                    process.kill()
        if process.returncode != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise _EncoderFailed(lines[-1] if lines else f"exit code {process.returncode}")


def _failure(target: Path, reason: str) -> UserError:
    return UserError(
        f"the video encoder stopped: {reason}",
        where=target,
        fix="The frames are kept: run the same command again, or write to a folder of images",
    )
