"""Photos of every kind become the same cut-out egg; what cannot be lifted gets one line."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes.prepared import read_prepared
from nerfstudio_ext.stages.lift.framing import camera_distance, frame_around
from nerfstudio_ext.stages.lift.hub_pictures import HubOptions, see_depth, see_mask
from nerfstudio_ext.stages.lift.masks import largest_part
from nerfstudio_ext.stages.lift.photo import one_photo
from nerfstudio_ext.stages.lift.pictures import PICTURE
from nerfstudio_ext.stages.lift.prepare import PrepareSettings, Words, prepare_photo

from .photos import HEIGHT, WIDTH, egg_distance, egg_mask, egg_photo, write_mask, write_rgb, write_rgba

PLAIN = PrepareSettings(depth_model="none", mask_model="none", prepared_side=64)


def prepare(path: Path, progress: SilentProgress | None = None, words: Words | None = None, **changes):
    settings = dataclasses.replace(PLAIN, **changes)
    folder = path.parent / "out"
    prepare_photo(path, folder, settings, words or Words(), HubOptions(offline=True), progress)
    return read_prepared(folder)


def test_the_object_ends_up_in_the_middle_and_the_camera_fits(tmp_path: Path):
    prepared = prepare(write_rgba(tmp_path / "egg.png"), words=Words("an egg", "a hen"))
    inside = prepared.rgba[..., 3] > 127
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert abs(rows[0] + rows[-1] - 63) <= 2 and abs(columns[0] + columns[-1] - 63) <= 2
    assert len(rows) == pytest.approx(0.75 * 64, abs=2)
    assert len(columns) / len(rows) == pytest.approx(22 / 30, abs=0.06)
    notes = prepared.notes
    assert (notes.text, notes.negative_text, notes.source) == ("an egg", "a hen", "egg.png")
    half = np.tan(np.radians(notes.fov_y_deg) / 2) * notes.distance
    assert 0.75 * half == pytest.approx(0.49, abs=0.01)  # half the object's height: it just fits into the cube
    assert any("guessed" in line for line in notes.made_by)
    with Image.open(tmp_path / "out" / PICTURE) as picture:
        assert picture.size == (256 * 2 + 8, 256)


def test_transparency_file_and_plain_background_find_the_same_object(tmp_path: Path):
    by_alpha = prepare(write_rgba(tmp_path / "a.png")).rgba
    by_file = prepare(write_rgb(tmp_path / "b.png"), mask=write_mask(tmp_path / "mask.png")).rgba
    by_ground = prepare(write_rgb(tmp_path / "c.png", is_plain=True)).rgba
    np.testing.assert_array_equal(by_alpha, by_file)
    overlap = (by_ground[..., 3] > 127) & (by_alpha[..., 3] > 127)
    union = (by_ground[..., 3] > 127) | (by_alpha[..., 3] > 127)
    assert overlap.sum() > 0.95 * union.sum()


def test_no_background_bleeds_into_the_edge(tmp_path: Path):
    mask = egg_mask()
    rgba = np.dstack([np.where(mask[..., None], (200, 40, 40), (0, 255, 0)), np.where(mask, 255, 0)])
    Image.fromarray(rgba.astype(np.uint8)).save(tmp_path / "x.png")
    front = prepare(tmp_path / "x.png").rgba
    visible = front[front[..., 3] > 8]
    assert np.abs(visible[:, :3].astype(int) - (200, 40, 40)).max() <= 2


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_turned_photos_are_turned_back(tmp_path: Path, orientation: int):
    upright = prepare(write_rgb(tmp_path / "a.png"), mask=write_mask(tmp_path / "mask.png")).rgba
    stored = {3: np.rot90(egg_photo(egg_mask()), 2), 6: np.rot90(egg_photo(egg_mask()), 1)}
    pixels = stored.get(orientation, np.rot90(egg_photo(egg_mask()), -1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "b.png", exif=exif)
    turned = prepare(tmp_path / "b.png", mask=tmp_path / "mask.png").rgba
    np.testing.assert_array_equal(turned, upright)


def test_sixteen_bits_keep_their_tones(tmp_path: Path):
    mask = egg_mask()
    grey = np.where(mask, 257 * 90, 257 * 30).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    front = prepare(tmp_path / "deep.png", mask=write_mask(tmp_path / "mask.png")).rgba
    assert np.abs(front[30:34, 30:34, :3].astype(int) - 90).max() <= 1


def test_the_focal_length_of_the_photo_is_used(tmp_path: Path):
    exif = Image.Exif()
    exif[0x8769] = {0xA405: 43}  # 35 mm equivalent: about one diagonal
    path = write_rgb(tmp_path / "a.jpg", exif=exif)
    notes = prepare(path, mask=write_mask(tmp_path / "mask.png")).notes
    frame = frame_around(egg_mask().astype(np.float32))
    expected = np.degrees(2 * np.arctan(frame.edge / 2 / np.hypot(WIDTH, HEIGHT)))
    assert notes.fov_y_deg == pytest.approx(expected, rel=0.01)
    assert notes.distance == pytest.approx(camera_distance(expected), rel=0.01)
    given = prepare(path, mask=tmp_path / "mask.png", fov=30.0, elevation=-20.0).notes
    assert (given.fov_y_deg, given.elevation_deg) == (30.0, -20.0)


@pytest.mark.parametrize("kind", ["npy", "png", "nearness"])
def test_depth_files_bulge_towards_the_camera(tmp_path: Path, kind: str):
    distance = egg_distance()
    path = tmp_path / ("depth.png" if kind == "png" else "depth.npy")
    if kind == "png":
        Image.fromarray((distance * 10000).astype(np.uint16)).save(path)
    else:
        np.save(path, distance if kind == "npy" else 1 / distance)
    progress = SilentProgress()
    prepared = prepare(
        write_rgba(tmp_path / "egg.png"), progress, depth=path,
        depth_means="nearness" if kind == "nearness" else "distance",
    )  # fmt: skip
    assert not progress.warnings
    inside = prepared.rgba[..., 3] > 127
    known = np.isfinite(prepared.depth)
    assert (known <= inside).all() and 0.6 < known.sum() / inside.sum() < 1  # the rim is left out
    assert prepared.depth[32, 32] < np.nanquantile(prepared.depth, 0.2)


def test_sixteen_bit_depth_keeps_all_its_bits(tmp_path: Path):
    distance = 30000 + egg_distance() * 20  # 20 units in 65536: less than one step of 8 bits
    Image.fromarray(distance.astype(np.uint16)).save(tmp_path / "depth.png")
    prepared = prepare(write_rgba(tmp_path / "egg.png"), depth=tmp_path / "depth.png")
    assert np.nanmax(prepared.depth) - np.nanmin(prepared.depth) > 10


def test_depth_that_looks_inverted_is_pointed_out(tmp_path: Path):
    np.save(tmp_path / "depth.npy", 1 / egg_distance())
    progress = SilentProgress()
    prepare(write_rgba(tmp_path / "egg.png"), progress, depth=tmp_path / "depth.npy")
    assert "--depth-means nearness" in progress.warnings[0]


def test_missing_depth_values_stay_missing(tmp_path: Path):
    distance = egg_distance()
    distance[50:60, 50:70] = np.nan
    np.save(tmp_path / "depth.npy", distance)
    depth = prepare(write_rgba(tmp_path / "egg.png"), depth=tmp_path / "depth.npy").depth
    assert np.isnan(depth[32, 32]) and np.isfinite(depth[12, 32])


def test_an_object_cut_out_along_its_bounds_is_whole(tmp_path: Path):
    rows, columns = np.flatnonzero(egg_mask().any(1)), np.flatnonzero(egg_mask().any(0))
    tight = egg_mask()[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    prepared = prepare(write_rgba(tmp_path / "egg.png", tight))
    assert (prepared.rgba[[0, -1], :, 3] == 0).all() and (prepared.rgba[:, [0, -1], 3] == 0).all()


CUT = egg_mask(centre=(10.0, 55.0))
REFUSED = {
    "empty mask": (lambda p: {"mask": write_mask(p / "m.png", egg_mask() & False)}, "the mask is empty"),
    "full mask": (lambda p: {"mask": write_mask(p / "m.png", egg_mask() | True)}, "covers the whole photo"),
    "cut": (lambda p: {"mask": write_mask(p / "m.png", CUT)}, r"cut off by the frame \(left\)"),
    "other shape": (lambda p: {"mask": write_mask(p / "m.png", egg_mask(100, 100))}, "of another shape"),
    "no mask at all": (lambda p: {}, "neither transparency nor a plain background"),
    "no such model": (lambda p: {"mask_model": "no/body"}, "no/body|not installed"),
    "no such depth model": (
        lambda p: {"mask": write_mask(p / "m.png"), "depth_model": "no/body"}, "no/body|not installed",
    ),
    "flat depth": (
        lambda p: {"mask": write_mask(p / "m.png"), "depth": write_mask(p / "d.png", egg_mask() & False)},
        "the same everywhere",
    ),
    "coloured depth": (
        lambda p: {"mask": write_mask(p / "m.png"), "depth": write_rgb(p / "d.png")}, "colour map",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lifted_gets_one_line(tmp_path: Path, name: str):
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        prepare(write_rgb(tmp_path / "photo.png"), **make(tmp_path))
    assert "\n" not in caught.value.line and caught.value.fix
    assert not (tmp_path / "out" / "prepared.json").exists()


def test_a_cut_object_is_lifted_when_asked(tmp_path: Path):
    mask = write_mask(tmp_path / "m.png", CUT)
    prepared = prepare(write_rgb(tmp_path / "photo.png"), mask=mask, may_be_cut=True)
    assert any("cut off by the frame (left)" in line for line in prepared.notes.made_by)


def test_one_photo_and_not_two(tmp_path: Path):
    first, second = write_rgba(tmp_path / "a.png"), tmp_path / "b.png"
    assert one_photo([first]) == first and one_photo([tmp_path]) == first
    write_rgba(second)
    for paths in ([first, second], [tmp_path], []):
        with pytest.raises(UserError, match="photo"):
            one_photo(paths)


def test_small_and_damaged_photos_are_refused(tmp_path: Path):
    Image.new("RGB", (20, 400)).save(tmp_path / "thin.png")
    (tmp_path / "no.jpg").write_bytes(b"no picture at all")
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    for name, message in (("thin.png", "too few"), ("no.jpg", "not a picture"), ("x.heic", "HEIC|decoded|cut")):
        with pytest.raises(UserError, match=message):
            prepare(tmp_path / name)


def test_specks_are_no_object():
    mask = egg_mask()
    mask[2:4, 120:122] = True
    assert not largest_part(mask)[3, 121] and (largest_part(mask) == egg_mask()).all()


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="HEIC: pillow-heif is not installed")
def test_heic_photos_are_read(tmp_path: Path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.fromarray(egg_photo(egg_mask(), is_plain=True)).save(tmp_path / "a.heic")
    assert (prepare(tmp_path / "a.heic").rgba[32, 32, 3]) == 255


@pytest.mark.parametrize("name, grows", [("dpt", False), ("depth_anything", False), ("depth_metric", True)])
def test_depth_models_say_near_or_far(tiny_model, tmp_path: Path, name: str, grows: bool):
    """Far is large afterwards, whatever the model says: compared with the model's own output."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    if name == "depth_metric":
        from .tiny_models import save_depth_anything

        folder = save_depth_anything(tmp_path / "metric", "metric")
    else:
        folder = tiny_model(name)
    rgb = egg_photo(egg_mask())
    seen = see_depth(rgb, str(folder), HubOptions())
    assert seen.values.shape == rgb.shape[:2] and seen.is_metric == grows
    model = AutoModelForDepthEstimation.from_pretrained(folder).eval()
    inputs = AutoImageProcessor.from_pretrained(folder)(images=Image.fromarray(rgb), return_tensors="pt")
    with torch.no_grad():
        own = model(**inputs).predicted_depth[None]
    own = torch.nn.functional.interpolate(own, rgb.shape[:2], mode="bicubic")[0, 0].numpy()
    correlation = np.corrcoef(own.ravel(), seen.values.ravel())[0, 1]
    assert correlation > 0.99 if grows else correlation < -0.99


def test_depth_of_a_model_is_prepared(tiny_model, tmp_path: Path):
    prepared = prepare(write_rgba(tmp_path / "egg.png"), depth_model=str(tiny_model("depth_anything")))
    assert prepared.depth is not None and np.isfinite(prepared.depth).any()
    assert any("licence" in line and "depth" in line for line in prepared.notes.made_by)


def test_without_a_depth_model_it_goes_on_and_says_so(tmp_path: Path):
    progress = SilentProgress()
    assert prepare(write_rgba(tmp_path / "egg.png"), progress, depth_model="auto").depth is None
    assert "no depth" in progress.warnings[0]


@pytest.mark.parametrize("name", ["clipseg", "sam"])
def test_mask_models_give_masks(tiny_model, name: str):
    rgb = egg_photo(egg_mask())
    seen = see_mask(rgb, str(tiny_model(name)), "an egg", HubOptions())
    assert seen.values.shape == rgb.shape[:2] and seen.values.min() >= 0 and seen.values.max() <= 1
    with pytest.raises(UserError, match="not used for masks"):
        see_mask(rgb, str(tiny_model("clip")), "an egg", HubOptions())
    if name == "clipseg":
        with pytest.raises(UserError, match="what to look for"):
            see_mask(rgb, str(tiny_model(name)), "", HubOptions())
