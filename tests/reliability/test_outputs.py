"""Videos that come in, films that go out, and marks in pictures: what cannot be done is said in one line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes import video as video_module
from nerfstudio_ext.scenes.video import VideoInfo, extract_frames
from tests.reliability.cases import Row, holds, register
from tests.reliability.nsx_process import assert_done, assert_one_line, run_nsx, unchanged

MATRIX = np.eye(4).ravel().tolist()


def ffmpeg(*words: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, words)], check=True)


def process(folder: Path, content: bytes | Callable[[Path], None]) -> list[str]:
    path = folder / "clip.mp4"
    content(path) if callable(content) else path.write_bytes(content)
    return ["process", "clip.mp4", "--output-dir", "capture"]


def still_video(n_frames: int) -> Callable[[Path], None]:
    return lambda path: ffmpeg("-f", "lavfi", "-i", f"color=c=red:s=64x48:r=10:d={n_frames / 10}", path)


def sound(path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", path)


def half(path: Path) -> None:
    still_video(20)(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_frames(path: Path) -> None:
    """A header without a single frame."""
    ffmpeg("-f", "lavfi", "-i", "color=c=red:s=64x48:d=1", "-frames:v", "0", path)


def hours(path: Path) -> None:
    """Eight hours of one picture: a frame every thousand seconds."""
    ffmpeg("-f", "lavfi", "-i", "color=c=red:s=64x48:r=1/1000:d=28800", "-c:v", "mpeg4", path)


VIDEOS = register(
    [
        Row("F18", "empty file", lambda f, _: process(f, b""), "clip.mp4", "0 bytes"),
        Row("F18", "no frames", lambda f, _: process(f, no_frames), "clip.mp4", "no picture|0 frames|damaged"),
        Row("F18", "cut short", lambda f, _: process(f, half), "clip.mp4", "damaged or cut short"),
        Row(
            "F18",
            "HLS playlist",
            lambda f, _: process(f, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
            "clip.mp4",
            "playlist",
        ),
        Row(
            "F18",
            "DASH manifest",
            lambda f, _: process(f, b'<?xml version="1.0"?><MPD><BaseURL>/etc/passwd</BaseURL></MPD>'),
            "clip.mp4",
            "playlist",
        ),
        Row(
            "F18",
            "list of files",
            lambda f, _: process(f, b"ffconcat version 1.0\nfile /etc/passwd\n"),
            "clip.mp4",
            "playlist",
        ),
        Row("F18", "sound only", lambda f, _: process(f, sound), "clip.mp4", "no picture in this file"),
        Row(
            "F18", "few frames", lambda f, _: process(f, still_video(3)), "clip.mp4", "3 frames can be read; at least 8"
        ),
        Row("F18", "eight hours", lambda f, _: process(f, hours), "clip.mp4", r"48\d minutes long; at most 60"),
    ]
)


@pytest.mark.parametrize("row", VIDEOS, ids=str)
def test_videos_that_cannot_be_used(row: Row, tmp_path: Path) -> None:
    argv = row.make(tmp_path, np.random.default_rng(0))
    with unchanged(tmp_path / "clip.mp4"):
        ended = run_nsx(argv, folder=tmp_path, seconds=120)
    assert_one_line(ended, row.code, names=row.names, says=row.says)
    assert not any("passwd" in name for name in ended.opened), "what a playlist names is never opened"
    if "playlist" in str(row.says):
        assert not ended.launched, "no decoder is even started"


@holds("F18")
def test_odd_rates_and_bright_colours_are_read_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video whose frames come at changing intervals is read frame by frame; one made for HDR screens is told of."""
    path = tmp_path / "clip.mp4"
    steps = "setpts='if(lt(N,10),N*0.1,1+(N-10)*0.4)/TB'"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2", "-vf", steps, "-fps_mode", "vfr", path)
    (tmp_path / "frames").mkdir()
    real = video_module.probe_video
    monkeypatch.setattr(
        video_module, "probe_video", lambda p: VideoInfo(real(p).seconds, real(p).fps, real(p).demuxer, is_hdr=True)
    )
    progress = SilentProgress()
    choice = extract_frames(path, tmp_path / "frames", 100, progress)
    assert choice.n_seen == 20, "every frame once, whatever its time"
    assert any("HDR" in line for line in progress.warnings)


# -- F19: render paths -----------------------------------------------------------------------------------


def path_file(**changes: object) -> Callable[[Path], list[str]]:
    """Words for rendering along a nerfstudio path of three frames with something changed."""
    entries = [{"camera_to_world": MATRIX, "fov": 50.0, "aspect": 1.3} for _ in range(3)]
    document = {"camera_type": "perspective", "render_width": 24, "render_height": 18, "fps": 24, "seconds": 1.0,
                "camera_path": entries, "keyframes": []} | changes  # fmt: skip

    def write(folder: Path) -> list[str]:
        (folder / "path.json").write_text(json.dumps(document))
        return ["--path", "path.json"]

    return write


def _pose(value: float) -> list[dict[str, object]]:
    matrix = list(MATRIX)
    matrix[3] = value
    return [{"camera_to_world": matrix, "fov": 50.0, "aspect": 1.3}]


def film(folder: Path, name: str = "film.mp4") -> list[str]:
    (folder / name).write_bytes(b"mine")
    return ["--path", "test", "--output-format", "video"]


KEY = [{"matrix": json.dumps(MATRIX), "fov": 50.0, "aspect": 1.3}]
PATHS: Sequence[tuple[str, Callable[[Path], list[str]], str, str]] = (
    ("empty", path_file(camera_path=[]), "path.json", "no frames|camera_path|key"),
    ("one key", path_file(camera_path=[], keyframes=KEY), "path.json", "one key|1 key|at least two"),
    ("NaN", path_file(camera_path=_pose(float("nan"))), "path.json", "NaN is not a number"),
    ("far away", path_file(camera_path=_pose(1e300)), "path.json", "units away"),
    (
        "zero frames per second",
        path_file(camera_path=[], keyframes=2 * KEY, fps=0),
        "path.json",
        "frames per second|fps",
    ),
    ("NaN frames per second", lambda f: ["--path", "orbit", "--fps", "nan"], "nan", "frames per second"),
    ("10^7 frames", lambda f: ["--path", "orbit", "--seconds", "1e6", "--fps", "10"], "frames", "at most 100000"),
    ("size 0", path_file(render_width=0), "path.json", "size 0x18|render_width"),
    ("size 10^9", path_file(render_width=10**9), "path.json", "16384"),
    ("no such file", lambda f: ["--path", "gone.json"], "gone.json", "neither"),
)


@holds("F19")
@pytest.mark.parametrize("case", PATHS, ids=lambda case: case[0])
def test_paths_that_cannot_be_rendered(case, tiny_run: Path, tmp_path: Path) -> None:
    _, make, names, says = case
    words = make(tmp_path)
    before = set(tmp_path.iterdir())
    with unchanged(tiny_run):
        ended = run_nsx(["render", str(tiny_run), *words, "--output-path", "film.mp4"], folder=tmp_path, seconds=120)
    assert_one_line(ended, 2, names=names, says=says)
    assert set(tmp_path.iterdir()) == before, "nothing is left of what could not begin"


@holds("F19")
def test_targets_in_the_way_are_left_alone(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"a file where a folder is wanted")
    argv = ["render", str(tiny_run), "--path", "test"]
    with unchanged(tmp_path):
        ended = run_nsx([*argv, "--output-path", "film.mp4"], folder=tmp_path, seconds=120)
        assert_one_line(ended, 2, names="film.mp4", says="exists")
        ended = run_nsx([*argv, "--output-path", "file/frames"], folder=tmp_path, seconds=120)
        assert_one_line(ended, 2, names="file")
        ended = run_nsx([*argv, "--output-path", "/proc/film.mp4"], folder=tmp_path, seconds=120)
        assert_one_line(ended, 2, names="/proc")


@holds("F19")
def test_odd_sizes_are_padded_with_a_word(tiny_run: Path, tmp_path: Path) -> None:
    words = path_file(render_width=25, render_height=19)(tmp_path)
    ended = run_nsx(["render", str(tiny_run), *words, "--output-path", "film.mp4"], folder=tmp_path, seconds=120)
    assert_done(ended)
    assert "26x20" in ended.out + ended.err
    assert (tmp_path / "film.mp4").stat().st_size > 0


# -- F20: the encoder ------------------------------------------------------------------------------------


def encoder(folder: Path, script: str) -> dict[str, str | None]:
    """The environment with this shell script in place of ffmpeg."""
    path = folder / "encoder"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"IMAGEIO_FFMPEG_EXE": str(path)}


@holds("F20")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'no space left for frame 2' >&2; exit 1", "no space left for frame 2"),
        ('for last; do :; done; echo half > "$last"; kill -9 $$', "stopped"),
        ("exit 0", "film"),
    ],
    ids=["gives up", "killed", "writes nothing"],
)
def test_an_encoder_that_dies_leaves_no_film(script: str, says: str, tiny_run: Path, tmp_path: Path) -> None:
    argv = ["render", str(tiny_run), "--path", "test", "--output-path", "film.mp4"]
    ended = run_nsx(argv, folder=tmp_path, env=encoder(tmp_path, script), seconds=120)
    assert_one_line(ended, 2, names="film.mp4", says=says)
    assert not (tmp_path / "film.mp4").exists() and not list(tmp_path.rglob("film-*.mp4"))
    frames = list((tmp_path / "film.mp4.partial").rglob("frame_*.png"))
    assert frames, "the frames are kept"


@holds("F20")
def test_after_the_encoder_was_mended_the_frames_are_taken_as_they_are(tiny_run: Path, tmp_path: Path) -> None:
    argv = ["render", str(tiny_run), "--path", "test", "--output-path", "film.mp4"]
    assert run_nsx(argv, folder=tmp_path, env=encoder(tmp_path, "exit 1"), seconds=120).code == 2
    ended = run_nsx(argv, folder=tmp_path, seconds=120)
    assert_done(ended)
    assert (tmp_path / "film.mp4").stat().st_size > 0 and not (tmp_path / "film.mp4.partial").exists()


@holds("F20")
def test_without_an_encoder_nothing_is_begun(tiny_run: Path, tmp_path: Path) -> None:
    argv = ["render", str(tiny_run), "--path", "test", "--output-path", "film.mp4"]
    env = {"IMAGEIO_FFMPEG_EXE": str(tmp_path / "gone")}
    ended = run_nsx(argv, folder=tmp_path, env=env, seconds=120)
    line = assert_one_line(ended, 2, says="encoder")
    assert "imag" in line, "what else can be done: a folder of images"
    assert not list(tmp_path.iterdir()), "no frame is rendered for a film that cannot be made"
    ended = run_nsx([*argv[:-1], "frames"], folder=tmp_path, env=env, seconds=120)
    assert_done(ended)
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2


# -- F21: marks ------------------------------------------------------------------------------------------


def picture(folder: Path, name: str, width: int = 128, height: int = 96, mode: str = "RGB") -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name)
    return name


def _wrong_decoder(folder: Path) -> str:
    (folder / "decoder.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    return "decoder.safetensors"


EXTRACT = register(
    [
        Row(
            "F21",
            "picture too small",
            lambda f, _: [picture(f, "a.png", 20, 20), "--key", "k"],
            "a.png",
            "64 are needed",
        ),
        Row(
            "F21",
            "no picture",
            lambda f, _: [(f / "a.png").write_text("x") and "a.png", "--key", "k"],
            "a.png",
            "not a picture",
        ),
        Row("F21", "empty key", lambda f, _: [picture(f, "a.png"), "--key", ""], "--key", "empty"),
        Row("F21", "no key", lambda f, _: [picture(f, "a.png")], "key", ""),
        Row(
            "F21",
            "wrong model",
            lambda f, _: [picture(f, "a.png"), "--key", "k", "--decoder", _wrong_decoder(f)],
            "decoder.safetensors",
            "",
        ),
        Row(
            "F21",
            "unknown code",
            lambda f, _: [picture(f, "a.png"), "--key", "k", "--code", "id-999"],
            "id-999",
            "Choose one of",
        ),
    ]
)
EMBED = register(
    [
        Row(
            "F21",
            "message too long",
            lambda f, _: ["--text", "x" * 5000, "--key", "k"],
            "5000 bytes",
            r"at most \d+ fit",
        ),
        Row("F21", "empty message", lambda f, _: ["--text", "", "--key", "k"], "--text", "empty"),
        Row(
            "F21",
            "bytes that are none",
            lambda f, _: ["--bytes-hex", "xyz", "--key", "k"],
            "--bytes-hex",
            "not hexadecimal",
        ),
        Row("F21", "identity too short", lambda f, _: ["--payload-id", "12", "--key", "k"], "--payload-id", "48-bit"),
        Row(
            "F21",
            "half a character",
            lambda f, _: ["--text", os.fsdecode(b"\xff"), "--key", "k"],
            "--text",
            "not valid Unicode",
        ),
        Row(
            "F21",
            "two messages",
            lambda f, _: ["--text", "a", "--bytes-hex", "00", "--key", "k"],
            "",
            "more than one message",
        ),
    ]
)


@pytest.mark.parametrize("row", EXTRACT, ids=str)
def test_marks_that_cannot_be_looked_for(row: Row, tmp_path: Path) -> None:
    words = row.make(tmp_path, np.random.default_rng(0))
    ended = run_nsx(["stega", "extract", *map(str, words)], folder=tmp_path, seconds=120, env={"NSX_STEGA_KEY": None})
    assert_one_line(ended, row.code, names=row.names, says=row.says, has_fix=False)


@pytest.mark.parametrize("row", EMBED, ids=str)
def test_messages_that_cannot_be_hidden(row: Row, tiny_run: Path, tmp_path: Path) -> None:
    words = row.make(tmp_path, np.random.default_rng(0))
    with unchanged(tiny_run):
        ended = run_nsx(["stega", "embed", str(tiny_run), *words], folder=tmp_path, seconds=120)
    assert_one_line(ended, row.code, names=row.names, says=row.says, has_fix=False)


@holds("F21")
@pytest.mark.parametrize("name", ["plain.png", "grey.png", "alpha.png", "low.jpg"])
def test_where_no_mark_is_none_is_found(name: str, tmp_path: Path) -> None:
    """Grey, transparent and coarsely encoded pictures are read; what is not there is not made up."""
    mode = {"grey.png": "L", "alpha.png": "RGBA"}.get(name, "RGB")
    picture(tmp_path, name, mode=mode)
    argv = ["stega", "extract", name, "--key", "k", "--json", "-"]
    ended = run_nsx(argv, folder=tmp_path, seconds=120)
    assert ended.code == 3 and "Traceback" not in ended.err, ended.err
    found = json.loads(ended.out)
    assert found["present"] is False and found["payload"] is None and found["p_value"] > 1e-6
