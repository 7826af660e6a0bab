"""Every photo is looked at before any work: each kind of fault is named, the good ones are kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes.photo_check import (
    MIN_PHOTOS,
    PhotoCheck,
    check_photos,
    laplacian_variance,
    list_photos,
    working_size,
)
from tests.poses.builders import noise_picture, write_photos


def check(folder: Path, work: Path, **options: int) -> tuple[PhotoCheck, SilentProgress]:
    work.mkdir(exist_ok=True)
    progress = SilentProgress()
    paths, skipped = list_photos(folder)
    return check_photos(paths, folder, work, 40_000, progress, skipped=skipped, **options), progress


def test_good_photos_are_all_kept_in_natural_order(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", [f"img{i}.jpg" for i in (10, 2, 1, 9, 3, 4, 5, 6, 7, 8)])
    result, progress = check(tmp_path / "in", tmp_path / "work")
    assert [p.name for p in result.photos] == [f"img{i}.jpg" for i in range(1, 11)]
    assert not result.skipped
    assert not progress.warnings
    for photo in result.photos:
        with Image.open(photo.work) as grey:
            assert grey.mode == "L"
            assert grey.size == photo.work_size == working_size(160, 120, 40_000)


def test_all_faults_are_named_in_one_pass_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, [f"good{i}.jpg" for i in range(9)])
    whole = (folder / "good0.jpg").read_bytes()
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "twin.jpg").write_bytes(whole)
    noise_picture(8, 8, 1).save(folder / "icon.png")
    (folder / "shot.dng").write_bytes(b"II*\0raw")
    (folder / "drawing.svg").write_text("<svg/>")
    Image.new("RGBA", (160, 120), (10, 20, 30, 0)).save(folder / "clear.png")
    result, progress = check(folder, tmp_path / "work")
    assert [p.name for p in result.photos] == [f"good{i}.jpg" for i in range(9)]
    reasons = {item.name: item.reason for item in result.skipped}
    expected = {
        "zero.jpg": "0 bytes", "half.jpg": "cut short", "page.jpg": "not a picture", "twin.jpg": "good0.jpg",
        "icon.png": "8x8", "shot.dng": ".dng", "drawing.svg": ".svg", "clear.png": "transparent",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for name, part in expected.items():
        assert part in reasons[name], (name, reasons[name])
        assert any(name in warning for warning in progress.warnings)
    assert "8 of 17 photos are left out; 9 remain" in progress.warnings


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    noise_picture(160, 120, 99).save(tmp_path / "in" / "liar.jpg", "PNG")
    result, _ = check(tmp_path / "in", tmp_path / "work")
    assert {p.name for p in result.photos} == {*names, "liar.jpg"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_same_upright_working_picture(tmp_path: Path, orientation: int) -> None:
    upright = noise_picture(160, 120, 3)
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo[orientation] is None else upright.transpose(undo[orientation])
    stored.save(tmp_path / "in" / "a.jpg", quality=97, exif=exif)
    result, _ = check(tmp_path / "in", tmp_path / "work")
    photo = result.photos[0]
    assert (photo.info.width, photo.info.height) == (160, 120)
    with Image.open(photo.work) as grey:
        wanted = upright.convert("L").resize(grey.size, Image.Resampling.LANCZOS)
        difference = np.abs(np.asarray(grey, np.float64) - np.asarray(wanted, np.float64)).mean()
    assert difference < 3  # what JPEG loses; a wrong turn gives over 30


def test_sixteen_bit_cmyk_palette_and_grey_pictures_are_read_rightly(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, [f"p{i}.jpg" for i in range(8)])
    grey = noise_picture(160, 120, 5).convert("L")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "a16.png")
    grey.save(folder / "a8.png")
    grey.convert("P").save(folder / "apalette.png")
    grey.convert("RGB").convert("CMYK").save(folder / "acmyk.tif")
    result, _ = check(folder, tmp_path / "work")
    by_name = {p.name: p for p in result.photos}
    truth = by_name["a8.png"].brightness
    for name in ("a16.png", "apalette.png", "acmyk.tif"):
        assert abs(by_name[name].brightness - truth) < 1, name
        assert by_name[name].needs_conversion
    assert not by_name["a8.png"].needs_conversion


def test_too_large_is_refused_from_the_header(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    Image.new("1", (3000, 2000)).save(tmp_path / "in" / "huge.png")
    result, _ = check(tmp_path / "in", tmp_path / "work", max_pixels=1_000_000)
    assert [item.name for item in result.skipped] == ["huge.png"]
    assert "6 MP is over the limit of 1 MP" in result.skipped[0].reason


def test_too_few_photos_stop_with_the_reasons(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "in", ["a.jpg", "b.jpg"])
    for i in range(MIN_PHOTOS):
        (tmp_path / "in" / f"copy{i}.jpg").write_bytes((tmp_path / "in" / names[0]).read_bytes())
    with pytest.raises(UserError) as caught:
        check(tmp_path / "in", tmp_path / "work")
    assert "2 usable photos; at least 8 are needed; 8 left out as duplicates" in caught.value.line


def test_missing_empty_and_pictureless_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        list_photos(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        list_photos(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="none of its 1 files is a photo"):
        list_photos(tmp_path / "text")
    with pytest.raises(UserError, match="not a folder"):
        list_photos(tmp_path / "text" / "notes.txt")


def test_heic_without_decoder_stops_and_lists_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_photos(tmp_path, [f"p{i}.jpg" for i in range(8)])
    for i in (1, 2):
        (tmp_path / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError) as caught:
        list_photos(tmp_path)
    assert "IMG_1.HEIC, IMG_2.HEIC" in caught.value.line
    assert "[heic]" in caught.value.line


def test_links_devices_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, [f"p{i}.jpg" for i in range(8)])
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "._p0.jpg").write_bytes(b"\0\x05\x16\x07")
    (folder / "again").symlink_to(folder)
    paths, skipped = list_photos(folder)
    assert [p.name for p in paths] == [f"p{i}.jpg" for i in range(8)]
    assert not skipped


def test_folders_below_count_only_when_the_folder_itself_has_no_photos(tmp_path: Path) -> None:
    write_photos(tmp_path / "a" / "left", ["1.jpg"])
    write_photos(tmp_path / "a" / "right", ["1.jpg"])
    assert [p.relative_to(tmp_path / "a").as_posix() for p in list_photos(tmp_path / "a")[0]] == [
        "left/1.jpg", "right/1.jpg",
    ]  # fmt: skip
    write_photos(tmp_path / "a", ["top.jpg"])
    assert [p.name for p in list_photos(tmp_path / "a")[0]] == ["top.jpg"]


def test_inputs_are_not_touched(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "in").iterdir()}
    check(tmp_path / "in", tmp_path / "work")
    assert before == {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "in").iterdir()}


def test_sharpness_falls_with_blur_and_is_zero_for_a_flat_picture() -> None:
    picture = noise_picture(200, 150, 4).convert("L")
    values = [
        laplacian_variance(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2, 4)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 5 * values[2]
    assert laplacian_variance(np.full((20, 30), 77, np.uint8)) == 0


def test_laplacian_variance_of_a_known_picture() -> None:
    # One bright pixel of height h in a flat 5x5 picture: the 3x3 inner Laplacians are -4h once, h four times.
    picture = np.zeros((5, 5), np.uint8)
    picture[2, 2] = 10
    inner = np.array([-40, 10, 10, 10, 10, 0, 0, 0, 0])
    assert laplacian_variance(picture) == pytest.approx(inner.var())


def test_working_size_reduces_large_and_enlarges_small_up_to_a_bound() -> None:
    width, height = working_size(4032, 3024, 750_000)
    assert 740_000 < width * height < 760_000
    assert width / height == pytest.approx(4 / 3, rel=2e-3)
    assert working_size(320, 240, 750_000) == (480, 360)
