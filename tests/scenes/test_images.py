"""The decoder against reference arrays: depth, colour model, opacity, orientation, profile, damage."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.scenes.images import (
    DamagedImage,
    ImageStore,
    probe_image,
    read_image,
    turn_upright,
)
from nerfstudio_ext.scenes.picture_loading import PictureJob, load_store
from tests.scenes.builders import picture


def smooth(height: int = 32, width: int = 48) -> np.ndarray:
    """A smooth colour picture, which JPEG and CMYK keep nearly as it is."""
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([40 + 3 * u, 30 + 5 * v, 200 - 2 * u - v], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp", ".ppm"])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(picture(0)).save(path, lossless=True) if suffix == ".webp" else Image.fromarray(picture(0)).save(
        path
    )
    assert np.array_equal(read_image(path), picture(0))
    assert probe_image(path).format in ("PNG", "TIFF", "WEBP", "BMP", "PPM")


def test_content_decides_not_the_ending(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "x.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "x.jpg"), picture(0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"x{suffix}")
    pixels = read_image(tmp_path / f"x{suffix}")
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[..., 0] - values / 257.0).max() <= 0.5 + 1e-9
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_16_bit_colour(tmp_path: Path) -> None:
    """Pillow writes no 16-bit colour, so the file is made by hand."""
    values = (smooth().astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    write_png(tmp_path / "x.png", values.shape[1], values.shape[0], depth=16, colour=2, rows=rows)
    assert np.array_equal(read_image(tmp_path / "x.png"), smooth())


def write_png(path: Path, width: int, height: int, *, depth: int, colour: int, rows: bytes) -> None:
    """A PNG file from its parts; the header may promise anything."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_cmyk_jpeg_of_both_kinds(tmp_path: Path) -> None:
    """A CMYK picture made from RGB comes back as that RGB; Adobe's inverted values are what Pillow writes."""
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "adobe.jpg", quality=98, subsampling=0)
    assert Image.open(tmp_path / "adobe.jpg").mode == "CMYK"
    assert np.abs(read_image(tmp_path / "adobe.jpg").astype(int) - smooth()).mean() < 2
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cyan.save(tmp_path / "cyan.tif")
    assert read_image(tmp_path / "cyan.tif")[0, 0].tolist() == [0, 255, 255]


def test_palette_grey_and_one_bit(tmp_path: Path) -> None:
    indexed = Image.fromarray(smooth()).quantize(64)
    indexed.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.asarray(indexed.convert("RGB")))
    Image.fromarray(smooth()[..., 0]).save(tmp_path / "l.png")
    assert np.array_equal(read_image(tmp_path / "l.png"), smooth()[..., [0, 0, 0]])
    checker = (np.indices((8, 8)).sum(0) % 2).astype(bool)
    Image.fromarray(checker).save(tmp_path / "1.png")
    assert np.array_equal(read_image(tmp_path / "1.png")[..., 1], checker * 255)


def test_opacity_stays_straight(tmp_path: Path) -> None:
    rgba = picture(1, channels=4)
    rgba[..., 3][rgba[..., 3] < 40] = 0
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), rgba)
    assert probe_image(tmp_path / "rgba.png").has_alpha
    grey = rgba[..., [0, 3]].copy()
    Image.fromarray(grey).save(tmp_path / "la.png")
    assert np.array_equal(read_image(tmp_path / "la.png"), grey[..., [0, 0, 0, 1]])
    indexed = Image.fromarray(smooth()).quantize(16)
    indexed.save(tmp_path / "p.png", transparency=3)
    expected = np.where(np.asarray(indexed) == 3, 0, 255)
    assert np.array_equal(read_image(tmp_path / "p.png")[..., 3], expected)


def test_reducing_does_not_bleed_hidden_colours(tmp_path: Path) -> None:
    """Colours under zero opacity are noise of the exporter; an area average must weight by opacity."""
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:, 1::2] = [0, 200, 0, 255]
    Image.fromarray(rgba).save(tmp_path / "x.png")
    assert np.abs(read_image(tmp_path / "x.png", size=(2, 2)).astype(int) - [0, 200, 0, 128]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    Image.fromarray(picture(2)).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(read_image(path), expected)
    assert np.array_equal(turn_upright(picture(2), orientation), expected)
    info = probe_image(path)
    assert (info.height, info.width) == expected.shape[:2] and info.stored_size == (24, 16)
    assert np.array_equal(read_image(path, upright=False), picture(2))
    half = read_image(path, size=(expected.shape[1] // 2, expected.shape[0] // 2))
    blocks = expected.reshape(half.shape[0], 2, half.shape[1], 2, 3).astype(float).mean((1, 3))
    assert np.abs(half - blocks).max() <= 1


def test_wide_gamut_is_brought_to_srgb_and_srgb_left_alone(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(smooth()).save(tmp_path / "srgb.png", icc_profile=srgb)
    assert np.array_equal(read_image(tmp_path / "srgb.png"), smooth())
    Image.fromarray(smooth()).save(tmp_path / "junk.png", icc_profile=b"not a profile at all")
    assert np.array_equal(read_image(tmp_path / "junk.png"), smooth())
    wide = display_p3()
    Image.fromarray(smooth()).save(tmp_path / "p3.png", icc_profile=wide)
    expected = ImageCms.profileToProfile(Image.fromarray(smooth()), io.BytesIO(wide), ImageCms.createProfile("sRGB"))
    assert np.array_equal(read_image(tmp_path / "p3.png"), np.asarray(expected))
    red = np.full((4, 4, 3), [150, 40, 40], np.uint8)
    Image.fromarray(red).save(tmp_path / "red.png", icc_profile=wide)
    assert read_image(tmp_path / "red.png")[0, 0, 0] > 155  # the same red needs a larger share of a narrower gamut


def display_p3() -> bytes:
    """A minimal Display P3 profile (version 2: primaries and one gamma curve), written by hand."""

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in (x, y, z))

    text = b"Display P3 like\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": description, b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419), b"bXYZ": xyz(0.1571, 0.0666, 0.7841), b"rTRC": curve, b"gTRC": curve,
        b"bTRC": curve,
    }  # fmt: skip
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = bytearray(128)
    header[0:4] = struct.pack(">I", offset + len(body))
    header[8:12] = struct.pack(">I", 0x02400000)
    header[12:24] = b"mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = xyz(0.9642, 1, 0.8249)[8:]
    return bytes(header) + table + body


def test_damage_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth(200, 300)).save(path)
    whole = path.read_bytes()
    cases = {
        whole[: len(whole) // 2]: "the file is cut short. Copy it again",
        b"": "the file is empty. Copy it again",
        b"<html></html>": "not a picture. Remove it, or save it as JPEG or PNG",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(DamagedImage, match=f"x.jpg: {message}"):
            read_image(path)
    heic = tmp_path / "x.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    with pytest.raises(DamagedImage, match=r"x.heic: HEIC needs the 'heic' extra\. Install it"):
        read_image(heic)
    raw = tmp_path / "x.NEF"
    raw.write_bytes(b"NIKON")
    with pytest.raises(DamagedImage, match="raw camera files are not read"):
        read_image(raw)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DamagedImage, match="32 bits per value"):
        read_image(tmp_path / "f.tif")
    with pytest.raises(UserError, match="no such picture"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(DamagedImage, match="not a file"):
        read_image(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_size_is_refused_from_the_header(tmp_path: Path) -> None:
    for side, message in ((10_500, "110 MP is over the limit of 100 MP"), (60_000, "more than 100 MP")):
        write_png(tmp_path / "bomb.png", side, side, depth=8, colour=2, rows=b"")
        for read in (probe_image, read_image):
            with pytest.raises(UserError, match=f"bomb.png: {message}. Reduce the picture"):
                read(tmp_path / "bomb.png")
    Image.new("L", (40, 30)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="0 MP is over the limit of 0 MP"):
        read_image(tmp_path / "x.png", max_pixels=1000)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".gif"])
def test_mutated_pictures_are_read_or_refused_but_never_crash(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(smooth()).save(path)
    whole = path.read_bytes()
    rng = random.Random(suffix)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))]))
        try:
            pixels = read_image(path)
        except UserError:
            continue
        assert pixels.dtype == np.uint8 and pixels.shape[2] in (3, 4)


class TestStore:
    def jobs(self, folder: Path, n: int = 5) -> list[PictureJob]:
        jobs = []
        for i in range(n):
            width, height = 20 + i, 15 - i
            Image.fromarray(picture(i, width, height)).save(folder / f"{i}.png")
            jobs.append(PictureJob(folder / f"{i}.png", (width, height)))
        return jobs

    @pytest.mark.parametrize("budget", [None, 10])
    def test_pictures_of_different_sizes_in_memory_and_on_disk(self, tmp_path: Path, budget: int | None) -> None:
        store, damaged = load_store(self.jobs(tmp_path), 3, memory_budget=budget)
        assert not damaged and len(store) == 5 and store.n_channels == 3
        assert isinstance(store._flat, np.memmap) == (budget is not None)
        for i in range(5):
            assert np.array_equal(store.pixels(i), picture(i, 20 + i, 15 - i))
            assert store.sizes[i].tolist() == [20 + i, 15 - i]

    def test_views_share_memory(self, tmp_path: Path) -> None:
        store, _ = load_store(self.jobs(tmp_path), 3)
        assert np.shares_memory(store.pixels(2), store._flat) and store.pixels(2).dtype == np.uint8

    def test_gather_is_indexing(self, tmp_path: Path) -> None:
        store, _ = load_store(self.jobs(tmp_path), 3)
        cam_ids = torch.randint(5, (200,))
        u = (torch.rand(200) * store.sizes[cam_ids, 0]).long()
        v = (torch.rand(200) * store.sizes[cam_ids, 1]).long()
        values = store.gather(cam_ids, u, v)
        assert values.dtype == torch.uint8
        for i in range(200):
            expected = picture(int(cam_ids[i]), *store.sizes[cam_ids[i]].tolist())[v[i], u[i]]
            assert np.array_equal(values[i].numpy(), expected)

    def test_opaque_pictures_among_transparent_ones(self, tmp_path: Path) -> None:
        jobs = self.jobs(tmp_path, 2)
        rgba = picture(9, 21, 14, channels=4)
        Image.fromarray(rgba).save(jobs[1].path)
        store, _ = load_store(jobs, 4)
        assert (store.pixels(0)[..., 3] == 255).all() and np.array_equal(store.pixels(1), rgba)
        same = ImageStore.from_arrays([picture(0, 20, 15), rgba])
        assert np.array_equal(same.pixels(0), store.pixels(0)) and np.array_equal(same.pixels(1), rgba)

    def test_a_damaged_picture_leaves_the_others_in_order(self, tmp_path: Path) -> None:
        jobs = self.jobs(tmp_path)
        jobs[1].path.write_bytes(jobs[1].path.read_bytes()[:100])
        store, damaged = load_store(jobs, 3)
        assert list(damaged) == [1] and len(store) == 4
        assert np.array_equal(store.pixels(1), picture(2, 22, 13))

    def test_an_error_in_a_mask_ends_the_load(self, tmp_path: Path) -> None:
        def usable() -> np.ndarray:
            raise UserError("the mask leaves no pixel", where="mask.png")

        jobs = self.jobs(tmp_path)
        jobs[2] = PictureJob(jobs[2].path, jobs[2].size, usable=usable)
        with pytest.raises(UserError, match=r"mask\.png: the mask leaves no pixel"):
            load_store(jobs, 3)
