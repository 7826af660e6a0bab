"""Folders of photos: faulty ones are left out by name, odd ones are read rightly, too few stop before any work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from nerfstudio_ext.cli import main
from nerfstudio_ext.scenes import loading
from nerfstudio_ext.scenes import photos as photos_module
from tests.poses.builders import noise_picture, write_photos
from tests.reliability import corpus_photos as corpus
from tests.reliability.album import solved
from tests.reliability.cases import Row, holds
from tests.reliability.corpus_captures import train
from tests.reliability.holding import BAIT, assert_nothing_foreign, hold_row
from tests.reliability.nsx_process import assert_done, assert_one_line, no_marker, run_nsx, unchanged
from tests.scenes.builders import ring

__all__ = ["no_marker"]


def posed(tmp_path: Path, name: str) -> np.ndarray:
    """A photo of the posed capture, as other tools read it: no EXIF, no profile."""
    with Image.open(tmp_path / "out" / "images" / name) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.float64)


@pytest.mark.parametrize("row", corpus.REFUSED, ids=str)
def test_photos_that_cannot_be_used_stop_before_any_work(row: Row, tmp_path: Path, no_marker: Path) -> None:
    ended = hold_row(row, tmp_path)
    # A14: the pixels of a bomb must never be decoded.
    assert ended.grown_mb < 100


FAULTS: tuple[tuple[str, Callable[[Path], object], str], ...] = (
    ("A4", lambda f: (f / "empty.jpg").write_bytes(b""), "left out: empty.jpg: empty file (0 bytes); copy it again"),
    ("A5", lambda f: corpus.half(f / write_photos(f, ["cut.jpg"])[0]), "left out: cut.jpg: the file is cut short"),
    ("A6", lambda f: (f / "page.jpg").write_text("<!doctype html>"), "left out: page.jpg: not a picture"),
    ("A13", lambda f: (f / "raw.nef").write_bytes(b"MM\0*" + bytes(99)), "left out: raw.nef: .nef files are not read"),
    ("A13", lambda f: corpus.animation(f / "moves.gif"), "moves.gif: animated; only the first picture is used"),
    ("A14", lambda f: (f / "bomb.png").write_bytes(corpus.png_bomb(12_000)), "left out: bomb.png: 144 MP is over the"),
    ("A15", lambda f: noise_picture(1, 1, 0).save(f / "dot.png"), "left out: dot.png: only 1x1 pixels"),
    ("A16", lambda f: os.link(f / corpus.GOOD[0], f / "twin.jpg"), "left out: twin.jpg: the same photo as good_00.jpg"),
    ("A11", lambda f: Image.new("RGBA", (160, 120)).save(f / "air.png"), "left out: air.png: wholly transparent"),
    ("A17", lambda f: Image.new("RGB", (160, 120)).save(f / "m_black.png"), "m_black.png (sharpness 0, needs"),
    ("A17", lambda f: Image.new("RGB", (160, 120), "white").save(f / "m_white.png"), "m_white.png (sharpness 0, needs"),
    (
        "A17",
        lambda f: noise_picture(160, 120, 7).resize((10, 8)).resize((160, 120)).save(f / "m_soft.png"),
        "m_soft.png (sharpness ",
    ),
    ("A24", lambda f: corpus.with_exif(f / "cut_exif.jpg", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), "cut_exif.jpg"),
    ("A24", lambda f: corpus.with_exif(f / "nan_exif.jpg", corpus.focal_exif(0, 0)), "nan_exif.jpg"),
    ("A24", lambda f: corpus.with_exif(f / "huge_exif.jpg", b"Exif\0\0" + os.urandom(65_000)), "huge_exif.jpg"),
    ("A20", corpus.devices, ""),
    (
        "A21",
        lambda f: corpus.write(f, {".DS_Store": b"\0", "._good_00.jpg": b"\0\5", "Thumbs.db": b"\0", ".h.jpg": b""}),
        "",
    ),
)  # fmt: skip
N_LEFT_OUT, N_KEPT = 8, 7


@holds("A4", "A5", "A6", "A11", "A13", "A14", "A15", "A16", "A17", "A20", "A21", "A24")
def test_every_fault_is_named_in_one_pass_and_the_rest_goes_on(tmp_path: Path, no_marker: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, corpus.GOOD)
    for _, spoil, _ in FAULTS:
        spoil(folder)
    ended = solved(folder)
    assert_done(ended)
    for case, _, line in FAULTS:
        assert line in ended.out, f"{case}: {line!r} is not said:\n{ended.out}"
    assert not any(name in ended.out for name in ("loop.jpg", "zero.jpg", "pipe.jpg", ".DS_Store", "._good", ".h.jpg"))
    total = len(corpus.GOOD) + N_LEFT_OUT + N_KEPT
    assert f"{N_LEFT_OUT} of {total} photos are left out; {len(corpus.GOOD) + N_KEPT} remain" in ended.out
    (line,) = [line for line in ended.out.splitlines() if "camera data (EXIF) cannot be read" in line]
    assert all(name in line for name in ("cut_exif.jpg", "nan_exif.jpg", "huge_exif.jpg"))
    report = json.loads((tmp_path / "out" / "capture_report.json").read_text())
    assert report["summary"]["n_skipped"] == N_LEFT_OUT and len(report["skipped"]) == N_LEFT_OUT
    assert_nothing_foreign(ended, tmp_path)


@holds("A6", "A9", "A10", "A11", "A23")
def test_pictures_of_every_kind_keep_their_colours(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    truth = {i: np.asarray(noise_picture(160, 120, i)) for i in range(12)}
    grey = {i: np.asarray(Image.fromarray(truth[i]).convert("L")) for i in truth}
    expected: dict[str, tuple[np.ndarray, float]] = {}

    def put(name: str, picture: Image.Image, target: np.ndarray, tolerance: float, out: str, **options: object) -> None:
        picture.save(folder / name, **options)  # type: ignore[arg-type]
        expected[out] = np.broadcast_to(target if target.ndim == 3 else target[..., None], (120, 160, 3)), tolerance

    put("a.png", Image.fromarray(grey[0].astype(np.uint16) * 257), grey[0], 0.5, "a.png")
    put("b.tif", Image.fromarray(grey[1].astype(np.uint16) * 257), grey[1], 0.5, "b.png")
    cmyk = Image.fromarray(truth[2]).convert("CMYK")
    put("c.jpg", cmyk, np.asarray(cmyk.convert("RGB")), 3.0, "c.jpg", quality=98)
    palette = Image.fromarray(truth[3]).quantize(32)
    put("d.png", palette, np.asarray(palette.convert("RGB")), 0.0, "d.png")
    put("e.jpg", Image.fromarray(grey[4]), grey[4], 3.0, "e.jpg", quality=98)
    bits = Image.fromarray(grey[5]).convert("1")
    put("f.png", bits, np.asarray(bits.convert("RGB")), 0.0, "f.png")
    put("g.jpg", Image.fromarray(truth[6]), truth[6], 0.0, "g.png", format="PNG")
    rgba = np.dstack([truth[7], np.where(truth[7][..., :1] > 80, 255, 0).astype(np.uint8)])
    Image.fromarray(rgba).save(folder / "h.png")
    la = Image.fromarray(np.dstack([grey[8], rgba[..., 3]]), "LA")
    la.save(folder / "i.png")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    put("j.jpg", Image.fromarray(truth[9]), truth[9], 3.0, "j.jpg", quality=98, subsampling=0, icc_profile=profile)
    ended = solved(folder)
    assert_done(ended)
    assert "photos were turned upright or converted; the copies are in images/" in ended.out
    for name, (target, tolerance) in expected.items():
        found = posed(tmp_path, name)
        assert np.abs(found - target).mean() <= tolerance, name
        assert abs(found.mean() - target.mean()) <= 0.5, name
    with Image.open(tmp_path / "out" / "images" / "h.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGBA"))[..., 3], rgba[..., 3])


@holds("A7")
def test_turned_photos_give_the_same_pixels_as_upright_ones(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    truth = {i: np.asarray(noise_picture(160, 120, i)) for i in range(1, 9)}
    turn = Image.Transpose
    inverse = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE}
    inverse |= {6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270}  # EXIF 2.32, table 6, undone
    for i, pixels in truth.items():
        exif = Image.Exif()
        exif[0x0112] = i
        upright = Image.fromarray(pixels)
        stored = upright.transpose(inverse[i]) if i in inverse else upright
        stored.save(folder / f"{i}.png", exif=exif)
    assert_done(solved(folder))
    for i, pixels in truth.items():
        assert np.array_equal(posed(tmp_path, f"{i}.png"), pixels), f"orientation {i}"


@holds("A8")
def test_pictures_of_different_sizes_are_trained_on_together(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    frames = []
    for i, pose in enumerate(ring(9)):
        width, height = ((24, 16), (16, 24), (30, 20))[i % 3]
        noise_picture(width, height, i).save(folder / "images" / f"{i}.png")
        size = {"w": width, "h": height, "fl_x": 20.0}
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose.tolist(), **size})
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    with unchanged(folder):
        assert_done(run_nsx(train(folder), folder=tmp_path, seconds=60))


@holds("A18", "A19")
def test_names_of_every_kind_stay_apart_and_run_nothing(tmp_path: Path, no_marker: Path) -> None:
    folder = tmp_path / "in $(touch marker-of-foreign-code) 'q\" é"
    names = [
        "with space.jpg", "quote'\".jpg", "caf\u00e9.jpg", "cafe\u0301.jpg", "\U0001f600.jpg", "-rf.jpg", "--help.jpg",
        "$(touch marker-of-foreign-code).jpg", "`touch marker-of-foreign-code`;|&.jpg", "line\nbreak.jpg", "%s%n.jpg",
        "a" * 251 + ".jpg", "same.jpg", "SAME.jpg", "same.png", "same.JPEG", "\x1b[31mred.jpg",
    ]  # fmt: skip
    write_photos(folder, names)
    (folder / "bad\nname.jpg").write_bytes(b"no picture")
    ended = solved(folder)
    assert_done(ended)
    assert "left out: bad name.jpg: not a picture" in ended.out and "\x1b" not in ended.out
    document = json.loads((tmp_path / "out" / "transforms.json").read_text())
    written = [Path(frame["file_path"]).name for frame in document["frames"]]
    assert len({name.lower() for name in written}) == len(names) == len(list((tmp_path / "out" / "images").iterdir()))
    originals = {path.read_bytes() for path in folder.iterdir()} - {b"no picture"}
    assert {path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()} == originals
    assert not list(tmp_path.rglob("marker-of-foreign-code"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "out"])
    assert all(words[0].endswith("python") or "python" in words[0] for words in ended.launched)


@holds("A20")
def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, corpus.GOOD)
    write_photos(tmp_path / BAIT, ["theirs.jpg"])
    (folder / "theirs.jpg").symlink_to(tmp_path / BAIT / "theirs.jpg")
    (folder / "round").symlink_to(folder)
    ended = solved(folder)
    assert_done(ended)
    assert "left out: theirs.jpg: a link that leaves the folder: copy the photo itself" in ended.out
    assert_nothing_foreign(ended, tmp_path)


@holds("A22")
def test_a_photo_that_vanishes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_photos(folder, corpus.GOOD)
    copy = photos_module.copy_photos

    def copy_late(*arguments: object) -> int:
        (folder / "good_03.jpg").unlink()
        return copy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(photos_module, "copy_photos", copy_late)
    assert main(["process", str(folder), "--output-dir", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error:") and line.count("\n") == 1
    assert "good_03.jpg" in line and "vanished" in line and "Restore it" in line
    assert not (tmp_path / "out").exists()


@holds("A22")
def test_a_picture_that_vanishes_or_changes_after_its_header_was_read_is_named(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_capture, tmp_path / "in")
    load = loading.load_store

    def load_late(*arguments: object, **options: object) -> object:
        (folder / "images" / "03.png").unlink()
        (folder / "images" / "05.png").write_bytes(b"other bytes")
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load_store", load_late)
    words = train(folder)
    words[words.index("runs")] = str(tmp_path / "runs")
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.startswith("error:") and line.count("\n") == 1 and "03.png" in line and "Restore it" in line
    assert not (tmp_path / "runs").exists()


@holds("A20")
@pytest.mark.skipif(os.geteuid() == 0, reason="unreadable files: the superuser may read everything")
def test_files_and_folders_without_permission_are_named_with_their_mode(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, corpus.GOOD)
    (folder / "locked.jpg").symlink_to(folder / corpus.GOOD[0])
    (folder / corpus.GOOD[1]).chmod(0)
    try:
        ended = solved(folder)
        assert f"left out: {corpus.GOOD[1]}: no permission to read it (mode 000)" in ended.out
        folder.chmod(0o300)
        assert_one_line(solved(folder), 2, names="in", says="no permission")
    finally:
        folder.chmod(0o755)
        (folder / corpus.GOOD[1]).chmod(0o644)
