"""EXIF: focal length in pixels by two ways, exposure, and damaged values that must say nothing."""

from __future__ import annotations

import io
import math

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from nerfstudio_ext.scenes.exif import PhotoExif, read_exif

DETAILS = 0x8769


def exif_of(
    tags: dict[int, object], main: dict[int, object] | None = None, size: tuple[int, int] = (400, 300)
) -> PhotoExif:
    block = Image.Exif()
    for tag, value in (main or {}).items():
        block[tag] = value
    block.get_ifd(DETAILS).update(tags)
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG", exif=block)
    with Image.open(buffer) as picture:
        return read_exif(picture)


def test_35_mm_equivalent_compares_diagonals() -> None:
    exif = exif_of({0xA405: 26})
    # 26 mm before a 36x24 frame see the same diagonal angle as this many pixels before 400x300.
    angle = 2 * math.atan(43.2666 / 2 / 26)
    assert exif.focal_diagonals is not None
    assert 2 * math.atan(0.5 / exif.focal_diagonals) == pytest.approx(angle)
    assert not exif.is_damaged


def test_sensor_resolution_gives_the_focal_length_in_pixels() -> None:
    # 50 mm, 1000 pixels per cm at 4000 pixels wide: 5000 pixels, a tenth of that in a picture of 400.
    tags = {0x920A: IFDRational(50, 1), 0xA20E: IFDRational(1000, 1), 0xA210: 3, 0xA002: 4000}
    exif = exif_of(tags)
    assert exif.focal_diagonals is not None
    assert exif.focal_diagonals * 500 == pytest.approx(500)


def test_the_35_mm_equivalent_goes_first_and_nothing_is_none() -> None:
    both = exif_of({0xA405: 43, 0x920A: IFDRational(4, 1), 0xA20E: IFDRational(1, 1), 0xA210: 2})
    assert both.focal_diagonals == pytest.approx(43 / 43.2666)
    assert exif_of({}).focal_diagonals is None
    assert not exif_of({}).is_damaged


@pytest.mark.parametrize(
    "tags",
    [{0xA405: 60000}, {0xA405: 0}, {0x920A: IFDRational(0, 0), 0xA405: 1}],
    ids=["ten metres", "zero", "one millimetre"],
)
def test_impossible_focal_lengths_are_damage_not_data(tags: dict[int, object]) -> None:
    exif = exif_of(tags)
    assert exif.focal_diagonals is None
    assert exif.is_damaged


def test_exposure_counts_in_stops() -> None:
    def ev(seconds: float, f_number: float, iso: int) -> float:
        value = exif_of({0x829A: seconds, 0x829D: f_number, 0x8827: iso}).exposure_ev
        assert value is not None
        return value

    base = ev(0.01, 2.0, 100)
    assert ev(0.02, 2.0, 100) - base == pytest.approx(1, abs=1e-3)
    assert ev(0.01, 2.0, 400) - base == pytest.approx(2, abs=1e-3)
    assert ev(0.01, 4.0, 100) - base == pytest.approx(-2, abs=1e-3)
    assert exif_of({0x8827: 100}).exposure_ev is None


def test_model_names_are_printable_and_bounded() -> None:
    exif = exif_of({}, {0x010F: "Maker\x07", 0x0110: "M" * 500})
    assert exif.model == "Maker " + "M" * 64


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_block_cut_short_says_nothing_and_does_not_raise() -> None:
    block = Image.Exif()
    block.get_ifd(DETAILS).update({0xA405: 26})
    raw = block.tobytes()
    for length in range(6, len(raw)):
        picture = Image.new("RGB", (40, 30))
        picture.info["exif"] = raw[:length]
        assert read_exif(picture).focal_diagonals in (None, pytest.approx(26 / 43.2666))
