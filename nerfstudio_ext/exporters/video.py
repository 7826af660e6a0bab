"""Films from a folder of PNG frames: H.264 in mp4, animated GIF and WebP, all through ffmpeg."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from ..errors import UserError
from ..renderer import CancelToken
from .options import Container, FrameOptions

POLL_S = 0.05


def ffmpeg_program() -> str:
    """Path of an ffmpeg: the one packaged with imageio-ffmpeg, or what IMAGEIO_FFMPEG_EXE names.

    Raises:
        UserError: if there is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"no video encoder: {error}", fix="Install imageio-ffmpeg, or write to a folder of images"
        ) from error


def encode_film(
    frames: Path,
    target: Path,
    container: Container,
    fps: float,
    options: FrameOptions,
    *,
    cancel: CancelToken | None = None,
) -> None:
    """Encode `frames`/frame_00001.png, .. into one file that appears only when complete.

    Args:
        frames: Folder of the frames; also takes the unfinished film.
        target: The film; an existing one is replaced.
        container: mp4, gif or webp.
        fps: Frames per second.
        options: Qualities.
        cancel: Stops the encoder.
    Raises:
        UserError: if the encoder fails; the frames stay.
        Cancelled: when `cancel` was set.
    """
    partial = frames / f"film.{container}"
    source = ["-framerate", f"{fps:.6f}", "-start_number", "1", "-i", "frame_%05d.png"]
    try:
        if container == "gif":
            # One palette for the whole film: per-frame palettes flicker.
            palette = "palettegen=reserve_transparent=1:stats_mode=full"
            _run([*source, "-vf", palette, "-frames:v", "1", "-update", "1", "palette.png"], frames, cancel)
            use = "[0:v][1:v]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
            _run([*source, "-i", "palette.png", "-lavfi", use, "-loop", "0", partial.name], frames, cancel)
        elif container == "webp":
            quality = ["-c:v", "libwebp_anim", "-pix_fmt", "bgra", "-quality", str(options.webp_quality)]
            _run([*source, *quality, "-loop", "0", partial.name], frames, cancel)
        else:
            _run([*source, *_h264(options), partial.name], frames, cancel)
        os.replace(partial, target)
    except OSError as error:
        raise _failure(target, str(error.strerror)) from error
    except _EncoderFailed as error:
        raise _failure(target, str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _h264(options: FrameOptions) -> list[str]:
    # Tagged and converted as BT.709: untagged files are guessed by size, and colours shift between players.
    matrix = "scale=out_color_matrix=bt709:out_range=tv"
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-preset", "medium", "-crf", str(options.video_crf), "-pix_fmt", "yuv420p"]
    return ["-vf", matrix, *codec, *tags, "-movflags", "+faststart"]


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
