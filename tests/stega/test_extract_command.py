"""`nsx stega extract`: what it prints, how it ends, and every kind of file it reads."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.cli import main
from nerfstudio_ext.cli.stega_extract import odds
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.stages.stega.keys import Key
from nerfstudio_ext.stages.stega.picture_files import read_view, views_of
from tests.stega.marks import SECRET, marked_pictures
from tests.stega.pictures import psnr, sample_picture

IDENTITY = "00c0ffee0001"
FLAT = np.full((64, 64, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    return marked_pictures(192, 2, 38)


@pytest.fixture(scope="module")
def picture(marked: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("marked") / "marked.png"
    Image.fromarray(marked[0]).save(path)
    return path


@pytest.fixture(autouse=True)
def _no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NSX_STEGA_KEY", raising=False)


def extract(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict, str]:
    """Exit code, JSON object, text for people."""
    capsys.readouterr()
    code = main(["stega", "extract", *map(str, words), "--json", "-"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_found(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, text = extract(capsys, picture, "--key", SECRET)
    assert code == 0
    assert list(result) == ["schema", "present", "payload", "p_value", "p_value_random_keys", "views"]
    assert result["schema"] == 1 and result["present"] is True
    assert result["payload"] == {"kind": "id48", "text": IDENTITY, "hex": IDENTITY, "code": "id-127"}
    assert result["p_value"] < 1e-6 and result["p_value_random_keys"] == pytest.approx(1 / 2001)
    (view,) = result["views"]
    assert list(view) == ["name", "scale", "bit_accuracy", "p_value", "confidence"]
    assert view["name"] == "marked.png" and view["scale"] == 1 and view["confidence"] > 0.8
    assert re.search(rf"found the identity '{IDENTITY}' in the picture; chance of a false alarm 1 in .*10\^", text)


def test_not_found(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, text = extract(capsys, picture, "--key", "another", "--expect", IDENTITY, "--expect", "Ada L.")
    assert code == 3
    assert list(result) == ["schema", "present", "payload", "bit_accuracy", "p_value", "p_value_random_keys", "views"]
    assert result["present"] is False and result["payload"] is None and result["p_value"] > 1e-4
    assert 0.3 < result["bit_accuracy"] < 0.7
    assert "no message found under this key in 1 picture (p = " in text and "chance is 50 %" in text


def test_text_goes_to_standard_output_without_json(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stega", "extract", str(picture), "--key", SECRET]) == 0
    assert f"found the identity '{IDENTITY}'" in capsys.readouterr().out


def test_keys_come_from_files_and_the_environment(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key.txt"
    file.write_bytes(SECRET.encode() + b"\r\n")
    expected = ("--expect", IDENTITY)  # without random keys' search: quicker
    assert extract(capsys, picture, "--key-file", file, *expected)[0] == 0
    monkeypatch.setenv("NSX_STEGA_KEY", SECRET)
    assert extract(capsys, picture, *expected)[1]["bit_accuracy"] > 0.85


def test_a_video_is_read_from_a_few_frames(
    marked: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        Image.fromarray(marked[i // 6]).save(tmp_path / f"{i:03d}.png")
    film = tmp_path / "film"  # the name says nothing
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(tmp_path / "%03d.png")]
    matrix = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_range", "tv"]
    subprocess.run(
        [*program, *matrix, "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-f", "mp4", str(film)], check=True
    )
    frames = list(views_of(film, SilentProgress(), max_frames=4))
    assert [frame.name for frame in frames] == ["frame 1", "frame 4", "frame 7", "frame 10"]
    assert psnr(frames[0].pixels, marked[0]) > 32 and abs(frames[3].pixels.mean() - marked[1].mean()) < 1
    code, result, _ = extract(capsys, film, "--key", SECRET, "--max-frames", 4)
    assert code == 0 and result["payload"]["text"] == IDENTITY and len(result["views"]) == 4


def test_a_folder_is_read_without_what_is_damaged(
    marked: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        Image.fromarray(marked[i]).save(tmp_path / f"view{i}.webp", quality=95)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    Image.fromarray(FLAT[:20]).save(tmp_path / "tiny.png")
    (tmp_path / "notes.txt").write_text("not a picture, and none expected")
    code, result, text = extract(capsys, tmp_path, "--key", SECRET)
    assert code == 0 and [view["name"] for view in result["views"]] == ["view0.webp", "view1.webp"]
    assert "left out broken.png" in text and "left out tiny.png: 64 x 20 pixels: 64 are needed" in text
    assert "in 2 of 2 pictures" in text


FORMATS: dict[str, dict[str, object]] = {
    "png": {}, "bmp": {}, "tiff": {}, "webp": {"lossless": True}, "jpeg": {"quality": 97, "subsampling": 0}, "ppm": {},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    pixels = sample_picture(70, 90)
    path = tmp_path / "picture"
    Image.fromarray(pixels).save(path, format=name, **FORMATS[name])  # type: ignore[arg-type]
    (view,) = views_of(path, SilentProgress())
    assert psnr(view.pixels, pixels) > (38 if name == "jpeg" else 100)


def test_unusual_pictures(tmp_path: Path) -> None:
    pixels = sample_picture(70, 90)
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    alpha = np.zeros((70, 90, 1), np.uint8)
    alpha[:, :45] = 255
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(tmp_path / "clear.png")
    turned = Image.fromarray(np.rot90(pixels, 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    read = {path.stem: read_view(path, path.name).pixels for path in tmp_path.iterdir()}
    assert (read["grey"] == grey[..., None]).all() and (read["deep"] == grey[..., None]).all()
    assert (read["clear"][:, :45] == pixels[:, :45]).all() and (read["clear"][:, 45:] == 255).all()
    assert (read["turned"] == pixels).all()


def test_huge_pictures_are_reduced_while_reading(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1500, 4096, 3), np.uint8)).save(tmp_path / "huge.png")
    view = read_view(tmp_path / "huge.png", "huge")
    assert view.pixels.shape == (375, 1024, 3) and view.reduction == 0.25


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


MISTAKES: dict[str, tuple[dict[str, bytes], str, str]] = {
    "no action": ({}, "stega", "no action was given"),
    "unknown action": ({}, "stega extrakt a.png", "unknown action 'extrakt'. Did you mean 'extract'?"),
    "no picture": ({}, "stega extract --key k", "no picture, video or folder was given"),
    "no key": ({"a.png": png(FLAT)}, "stega extract a.png", "no key was given"),
    "two keys": ({"a.png": png(FLAT)}, "stega extract a.png --key k --key-file f", "the key was given twice"),
    "empty key": ({"a.png": png(FLAT), "f": b"\n"}, "stega extract a.png --key-file f", "the key is empty"),
    "no key file": ({"a.png": png(FLAT)}, "stega extract a.png --key-file f", "cannot be read"),
    "large key file": ({"f": b"x" * 70000}, "stega extract a.png --key-file f", "more than 64 kB"),
    "missing": ({}, "stega extract a.png --key k", "no such file or folder"),
    "empty folder": ({"d/": b""}, "stega extract d --key k", "the folder is empty"),
    "folder of texts": ({"d/a.txt": b"x"}, "stega extract d --key k", "none of its 1 files"),
    "folder of rubbish": ({"d/a.png": b"x"}, "stega extract d --key k", "none of its 1 pictures can be used (a.png"),
    "rubbish": ({"a": b"neither picture nor video"}, "stega extract a --key k", "not a video that can be read"),
    "empty file": ({"a.png": b""}, "stega extract a.png --key k", "the file is empty"),
    "cut short": ({"a.png": png(sample_picture(80, 80))[:5000]}, "stega extract a.png --key k", "cut short"),
    "tiny": ({"a.png": png(FLAT[:63])}, "stega extract a.png --key k", "64 x 63 pixels: 64 are needed"),
    "no decoder": ({"a.png": png(FLAT)}, "stega extract a.png --key k --decoder d", "no such extractor"),
    "bad decoder": ({"a.png": png(FLAT), "d": b"x"}, "stega extract a.png --key k --decoder d", "not a tensor file"),
    "unknown code": ({"a.png": png(FLAT)}, "stega extract a.png --key k --code id", "no code is called 'id'"),
    "uncoded": ({"a.png": png(FLAT)}, "stega extract a.png --key k --code id-48", "can be recognised, but not read"),
    "long text": ({"a.png": png(FLAT)}, "stega extract a.png --key k --expect much-too-long", "at most 8 bytes"),
    "bad bytes": ({"a.png": png(FLAT)}, "stega extract a.png --key k --expect hex:0", "is not hexadecimal"),
    "no text": ({"a.png": png(FLAT)}, "stega extract a.png --key k --expect=", "the text is empty"),
    "no frames": ({"a.png": png(FLAT)}, "stega extract a.png --key k --max-frames 0", "0 frames"),
    "rate": ({"a.png": png(FLAT)}, "stega extract a.png --key k --max-false-alarm 2", "2 is not from 0 to 0.01"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, words, expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).mkdir() if file.endswith("/") else (tmp_path / file).write_bytes(content)
    assert main(words.split()) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and expected in errors[0], errors


def test_a_key_that_is_no_text_is_read_as_bytes(tmp_path: Path) -> None:
    from nerfstudio_ext.cli.stega_extract import read_key

    (tmp_path / "k").write_bytes(b"\xff\x00\xfe")
    assert read_key(None, tmp_path / "k").stream("x", 8) == Key(b"\xff\x00\xfe").stream("x", 8)
    with pytest.raises(UserError, match="no key"):
        read_key(None, None)


def test_odds_in_words() -> None:
    assert odds(0.004) == "1 in 250" and odds(3e-10) == "1 in more than 10^9" and odds(0) == "1 in more than 10^300"


def test_help_of_the_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stega", "extract", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: nsx stega extract" in text and "id-48" in text and "NSX_STEGA_KEY" in text
