"""Frames from a video: the sharpest of each stretch of movement, upright, read without trusting the file's name."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np

from ..errors import UserError
from ..progress import Progress
from .photo_check import laplacian_variance

log = logging.getLogger(__name__)

MAX_SECONDS = 3600.0
"""Longer videos are refused: decoding alone would take longer than solving the poses."""
MAX_ANALYSED = 6000
"""Frames that are looked at; of longer videos every n-th."""
ANALYSIS_SIDE = 480
"""Longer side of the grey frames on which sharpness is judged, pixels."""
MIN_FRAMES = 8
READ_LIMIT_S = 1800.0

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "mov"), (4, b"moov", "mov"), (4, b"mdat", "mov"), (4, b"wide", "mov"), (4, b"free", "mov"),
    (4, b"skip", "mov"), (0, b"\x1a\x45\xdf\xa3", "matroska"), (8, b"AVI ", "avi"), (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"FLV", "flv"), (0, b"OggS", "ogg"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
)  # fmt: skip
"""Container by its first bytes. Playlists (HLS, DASH, concat) are text and match none: they could name other files."""
_TS_PACKETS = (188, 192)


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says.

    Attributes:
        seconds: Length.
        fps: Frames per second, on average.
        demuxer: ffmpeg's reader for its container.
        is_hdr: Colours are coded for HDR screens.
    """

    seconds: float
    fps: float
    demuxer: str
    is_hdr: bool


@dataclass(frozen=True)
class FrameChoice:
    """Which frames were taken.

    Attributes:
        frames: Numbers of the chosen frames, ascending.
        n_seen: How many frames were compared.
        n_left_out: Compared frames that lost against a sharper one of their stretch.
    """

    frames: tuple[int, ...]
    n_seen: int
    n_left_out: int


def extract_frames(video: Path, folder: Path, n_frames: int, progress: Progress) -> FrameChoice:
    """Write the best frames of a video as upright JPEG files `frame_00001.jpg`, ...

    Args:
        video: The file; its content decides what it is.
        folder: Existing empty folder for the frames.
        n_frames: How many to take; fewer when the video has fewer.
        progress: Receives two stages and warnings.
    Raises:
        UserError: if it is no video, has no usable picture, is cut short, too long, or names other files.
    """
    info = probe_video(video)
    if info.is_hdr:
        progress.warn(f"{video.name} is an HDR video: its colours will look pale; export it as SDR for true colours")
    total = max(1, round(info.seconds * info.fps))
    step = max(1, math.ceil(total / MAX_ANALYSED))
    if step > 1:
        progress.warn(f"{video.name} has about {total} frames: every {step}th is looked at")
    progress.stage("look at frames", math.ceil(total / step))
    sharpness, movement = [], []
    previous: np.ndarray | None = None
    for frame in _grey_frames(video, info, step):
        sharpness.append(laplacian_variance(frame))
        small = frame[::8, ::8].astype(np.float32)
        movement.append(0.0 if previous is None else float(np.abs(small - previous).mean()))
        previous = small
        progress.advance(len(sharpness))
    if len(sharpness) < MIN_FRAMES:
        raise UserError(
            f"{len(sharpness)} frames can be read; at least {MIN_FRAMES} are needed", where=video,
            fix="Copy the file again, or record 20 to 60 seconds while walking around the subject",
        )  # fmt: skip
    if step * len(sharpness) < 0.9 * total - 2:
        progress.warn(f"{video.name} ends early: {len(sharpness)} of about {total // step} frames can be read")
    chosen = choose_frames(np.array(sharpness), np.array(movement), n_frames)
    numbers = [step * i for i in chosen]
    progress.stage("extract frames", len(numbers))
    written = _write_frames(video, info, numbers, folder, progress)
    return FrameChoice(tuple(numbers[:written]), len(sharpness), len(sharpness) - len(numbers))


def even_frames(video: Path, n_frames: int, longest_side: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at equal distances in time, upright, in colour.

    Args:
        video: The file; its content decides what it is.
        n_frames: How many; fewer when the video has fewer or ends early.
        longest_side: Larger frames are reduced to it by area average, pixels.
    Yields:
        Number of the frame, and its pixels [H,W,3] 8 bit.
    Raises:
        UserError: as `extract_frames`, but a single frame is enough.
    """
    info = probe_video(video)
    total = round(info.seconds * info.fps)
    # Where the length is not written down, from the beginning on.
    numbers = [int((i + 0.5) * total / n_frames) for i in range(n_frames)] if total else range(0, 8 * n_frames, 8)
    chosen = sorted(set(numbers))
    wanted = "+".join(f"eq(n\\,{number})" for number in chosen)
    side = f"'if(gte(iw,ih),min(iw,{longest_side}),-1)':'if(gte(iw,ih),-1,min(ih,{longest_side}))'"
    count = 0
    filters = f"select='{wanted}',scale={side}:flags=area+accurate_rnd+full_chroma_int,format=rgb24"
    for number, frame in zip(chosen, _frames(video, info, filters, "ppm"), strict=False):
        yield number, frame
        count += 1
    if not count:
        raise UserError("its frames cannot be decoded", where=video, fix="Copy it again, or convert it to .mp4")


def choose_frames(sharpness: np.ndarray, movement: np.ndarray, n_frames: int) -> list[int]:
    """Pick the sharpest frame of each of `n_frames` stretches.

    Stretches are equally long, half by time and half by movement, so that a pause yields few frames and a quick turn
    many. Neighbouring choices are kept at least half a stretch apart where the video allows.

    Args:
        sharpness: Of each frame [N].
        movement: Change against the frame before [N], any unit.
        n_frames: Wanted number.
    Returns:
        Positions, ascending, at most `n_frames`.
    """
    n = len(sharpness)
    if n <= n_frames:
        return list(range(n))
    # A cut or a flash is one huge change; it must not eat up the stretches of everything else.
    bounded = np.minimum(movement, 5 * max(float(np.median(movement)), 1e-9))
    pace = 0.5 / n + 0.5 * bounded / max(float(bounded.sum()), 1e-9)
    way = np.concatenate([[0.0], np.cumsum(pace)])
    middle = (way[:-1] + way[1:]) / 2 / way[-1] * n_frames
    chosen: list[int] = []
    for stretch in range(n_frames):
        inside = np.flatnonzero((middle >= stretch) & (middle < stretch + 1))
        if chosen:
            apart = inside[middle[inside] - middle[chosen[-1]] >= 0.5]
            inside = apart if len(apart) else inside
        if len(inside):
            chosen.append(int(inside[sharpness[inside].argmax()]))
    return chosen


def probe_video(video: Path) -> VideoInfo:
    """Read what a video is, by content.

    Raises:
        UserError: as `extract_frames`.
    """
    if not video.is_file():
        raise UserError("no such video file", where=video, fix="Pass the path of a video or a folder of photos")
    demuxer = _demuxer(video)
    text = _ffmpeg_says(video, demuxer)
    stream = next((line for line in text.splitlines() if re.search(r"Stream #0:\d+.*: Video:", line)), "")
    if not stream or "attached pic" in stream:
        is_cut = any(words in text for words in ("moov atom not found", "Invalid data", "End of file"))
        if is_cut or "Stream #" not in text:  # neither picture nor sound: its table of contents is missing
            raise UserError("the video is damaged or cut short", where=video, fix="Copy it again from the camera")
        raise UserError("there is no picture in this file", where=video, fix="Pass a video, not a sound file")
    length = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", text)
    parts = length.groups() if length else ("0", "0", "0")
    seconds = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
    rate = re.search(r"([\d.]+) fps", stream) or re.search(r"([\d.]+) tbr", stream)
    fps = float(rate.group(1)) if rate and float(rate.group(1)) > 0 else 30.0
    if seconds > MAX_SECONDS:
        raise UserError(
            f"the video is {seconds / 60:.0f} minutes long; at most {MAX_SECONDS / 60:.0f} can be used", where=video,
            fix="Cut out the part that shows the scene",
        )  # fmt: skip
    is_hdr = "smpte2084" in stream or "arib-std-b67" in stream
    return VideoInfo(seconds, fps, demuxer, is_hdr)


def _demuxer(video: Path) -> str:
    """ffmpeg's name for the container, by its first bytes; playlists and unknown files are refused."""
    with video.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise UserError("the file is empty (0 bytes)", where=video, fix="Copy it again")
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    for size in _TS_PACKETS:
        start = size - 188
        if len(head) > start + 2 * size and all(head[start + k * size] == 0x47 for k in range(3)):
            return "mpegts"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"#extm3u", b"<?xml", b"<mpd", b"ffconcat", b"[playlist]", b"<smil", b"[reference]")):
        raise UserError("this is a playlist, not a video", where=video, fix="Pass the video file itself")
    raise UserError("not a video that can be read", where=video, fix="Convert it to .mp4")


def _arguments(video: Path, demuxer: str) -> list[str]:
    # The reader is forced and may open nothing but this file: a container that points elsewhere finds a closed door.
    return [
        imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-protocol_whitelist", "file,pipe",
        "-f", demuxer, "-i", f"file:{video.resolve()}",
    ]  # fmt: skip


def _ffmpeg_says(video: Path, demuxer: str) -> str:
    try:
        done = subprocess.run(
            _arguments(video, demuxer), capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError("its header cannot be read in 60 s", where=video, fix="Convert it to .mp4") from None
    return done.stderr.decode("utf-8", "replace")


def _grey_frames(video: Path, info: VideoInfo, step: int) -> Iterator[np.ndarray]:
    """Every `step`-th frame, upright, grey, small."""
    thin = f"select='not(mod(n\\,{step}))'," if step > 1 else ""
    return _frames(video, info, f"{thin}{_fit(ANALYSIS_SIDE)},format=gray", "pgm")


def _fit(longest_side: int) -> str:
    """Filter that reduces, or enlarges, frames to this longer side."""
    return f"scale='if(gt(iw,ih),{longest_side},-2)':'if(gt(iw,ih),-2,{longest_side})':flags=area"


def _frames(video: Path, info: VideoInfo, filters: str, codec: str) -> Iterator[np.ndarray]:
    """Decoded frames. The stream is PGM or PPM: each frame carries its own size."""
    output = ["-map", "0:v:0", "-vf", filters, "-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", codec, "-"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*_arguments(video, info.demuxer), *output], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        stream: IO[bytes] = process.stdout  # type: ignore[assignment]
        try:
            while (frame := _read_pnm(stream)) is not None:
                yield frame
        finally:
            stream.close()
            process.kill()
            process.wait()


def _read_pnm(stream: IO[bytes]) -> np.ndarray | None:
    """The next binary PGM [H,W] or PPM [H,W,3] picture of a stream, or None at its end."""
    n_channels = {b"P5": 1, b"P6": 3}.get(stream.readline().strip())
    size = stream.readline().split()
    stream.readline()
    if n_channels is None or len(size) != 2:
        return None
    width, height = int(size[0]), int(size[1])
    data = stream.read(width * height * n_channels)
    if len(data) != width * height * n_channels:
        return None
    return np.frombuffer(data, np.uint8).reshape((height, width, 3) if n_channels == 3 else (height, width))


def _write_frames(video: Path, info: VideoInfo, numbers: Sequence[int], folder: Path, progress: Progress) -> int:
    """Decode once more and write the chosen frames at full size; returns how many came out."""
    wanted = "+".join(f"eq(n\\,{number})" for number in numbers)
    output = ["-map", "0:v:0", "-vf", f"select='{wanted}'", "-fps_mode", "passthrough"]
    output += ["-frames:v", str(len(numbers)), "-q:v", "1", "-qmin", "1", "-pix_fmt", "yuvj444p"]
    output += ["-f", "image2", str(folder.resolve() / "frame_%05d.jpg")]
    with tempfile.TemporaryFile() as errors:
        command = [*_arguments(video, info.demuxer), *output]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        waited = 0.0
        try:
            while process.poll() is None:
                if waited > READ_LIMIT_S:
                    raise UserError(f"not decoded within {READ_LIMIT_S / 60:.0f} minutes", where=video, fix="Cut it")
                try:
                    process.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    waited += 0.5
                progress.advance(min(len(numbers), len(list(folder.glob("frame_*.jpg")))))
        finally:
            process.kill()
            process.wait()
        written = len(list(folder.glob("frame_*.jpg")))
        if process.returncode and not written:
            errors.seek(0)
            log.warning("ffmpeg: %s", errors.read()[-2000:].decode("utf-8", "replace"))
            raise UserError("its frames cannot be decoded", where=video, fix="Copy it again, or convert it to .mp4")
    return written
