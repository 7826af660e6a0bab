"""Video frames: the sharpest of each stretch, upright, and nothing but the file itself is opened."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageFilter

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes.video import choose_frames, extract_frames, probe_video
from tests.poses.builders import noise_picture

N_FRAMES, WIDTH, HEIGHT = 60, 192, 128


def write_video(path: Path, *extra: str, n: int = N_FRAMES, sharp_every: int = 6) -> list[int]:
    """A camera moving over a picture, blurred but for every `sharp_every`-th frame; returns the sharp ones."""
    wide = noise_picture(WIDTH + 4 * n, HEIGHT, 7)
    sharp = [i for i in range(n) if i % sharp_every == sharp_every // 2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (WIDTH, HEIGHT), fps=10, codec="libx264", macro_block_size=2, output_params=["-crf", "12", *extra]
    )
    writer.send(None)
    for i in range(n):
        frame = wide.crop((4 * i, 0, 4 * i + WIDTH, HEIGHT))
        if i not in sharp:
            frame = frame.filter(ImageFilter.GaussianBlur(2))
        writer.send(np.ascontiguousarray(np.asarray(frame)))
    writer.close()
    return sharp


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    path = tmp_path_factory.mktemp("video") / "walk $(touch x).mp4"
    return path, write_video(path)


def test_the_sharp_frame_of_each_stretch_is_taken(video: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, sharp = video
    choice = extract_frames(path, tmp_path, 10, SilentProgress())
    assert list(choice.frames) == sharp
    assert choice.n_seen == N_FRAMES
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"frame_{i:05d}.jpg" for i in range(1, 11)]
    wide = noise_picture(WIDTH + 4 * N_FRAMES, HEIGHT, 7)
    for number, file in zip(sharp, files, strict=True):
        with Image.open(file) as frame:
            assert frame.size == (WIDTH, HEIGHT)
            wanted = np.asarray(wide.crop((4 * number, 0, 4 * number + WIDTH, HEIGHT)), np.float64)
            assert np.abs(np.asarray(frame, np.float64) - wanted).mean() < 8  # a neighbour differs by over 15


def test_all_frames_are_taken_when_fewer_than_wanted(video: tuple[Path, list[int]], tmp_path: Path) -> None:
    assert len(extract_frames(video[0], tmp_path, 500, SilentProgress()).frames) == N_FRAMES


def test_the_rotation_flag_is_applied(video: tuple[Path, list[int]], tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90", "-i", str(video[0]), "-c", "copy",
         str(turned)],
        check=True,
    )  # fmt: skip
    (tmp_path / "frames").mkdir()
    extract_frames(turned, tmp_path / "frames", 8, SilentProgress())
    with Image.open(tmp_path / "frames" / "frame_00001.jpg") as frame:
        assert frame.size == (HEIGHT, WIDTH)


def test_probe_tells_length_and_rate(video: tuple[Path, list[int]]) -> None:
    info = probe_video(video[0])
    assert info.seconds == pytest.approx(6.0, abs=0.2)
    assert info.fps == pytest.approx(10)
    assert info.demuxer == "mov"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "playlist"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><MPD/>", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
        (b"\0\0\0\x18ftypisom" + b"\0" * 500, "damaged or cut short"),
        (b"hello, I am a text" * 50, "not a video"),
    ],
)
def test_what_is_no_video_is_refused_by_content(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        probe_video(path)
    assert str(path) in caught.value.line


def test_sound_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=duration=2", str(path)], check=True
    )
    with pytest.raises(UserError, match="no picture"):
        probe_video(path)


def test_a_file_cut_in_half_is_refused_in_one_line(video: tuple[Path, list[int]], tmp_path: Path) -> None:
    whole = video[0].read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        extract_frames(half, tmp_path, 10, SilentProgress())


def test_a_file_that_ends_early_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "front.mp4"
    write_video(path, "-movflags", "+faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * len(whole) // 3])
    progress = SilentProgress()
    (tmp_path / "frames").mkdir()
    choice = extract_frames(path, tmp_path / "frames", 8, progress)
    assert 8 <= choice.n_seen < N_FRAMES
    assert any("ends early" in warning for warning in progress.warnings)


def test_too_long_is_refused_before_decoding(
    video: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nerfstudio_ext.scenes.video.MAX_SECONDS", 3.0)
    with pytest.raises(UserError, match="minutes long"):
        extract_frames(video[0], tmp_path, 10, SilentProgress())


def test_long_videos_are_thinned_and_the_numbers_stay_those_of_the_video(
    video: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nerfstudio_ext.scenes.video.MAX_ANALYSED", 20)
    progress = SilentProgress()
    choice = extract_frames(video[0], tmp_path, 10, progress)
    assert choice.n_seen == 20
    assert list(choice.frames) == video[1]  # every third frame holds the sharp ones 3, 9, 15, ...
    assert any("every 3th" in warning or "every 3rd" in warning for warning in progress.warnings)


def test_choice_takes_one_sharpest_per_stretch_of_even_movement() -> None:
    rng = np.random.default_rng(0)
    sharpness = rng.random(300)
    chosen = choose_frames(sharpness, np.ones(300), 30)
    assert len(chosen) == 30
    assert chosen == sorted(set(chosen))
    for stretch, position in enumerate(chosen):
        assert stretch * 10 <= position < (stretch + 1) * 10


def test_a_pause_yields_few_frames() -> None:
    movement = np.concatenate([np.ones(100), np.full(200, 0.01), np.ones(100)])
    chosen = np.array(choose_frames(np.ones(400), movement, 40))
    resting = ((chosen >= 100) & (chosen < 300)).sum()
    assert resting < 0.35 * len(chosen)  # half of the time, a quarter of the way


def test_one_cut_does_not_eat_the_choice() -> None:
    movement = np.ones(200)
    movement[100] = 1e6
    chosen = np.array(choose_frames(np.ones(200), movement, 20))
    assert len(chosen) >= 18
    assert abs((chosen < 100).sum() - 10) <= 2
