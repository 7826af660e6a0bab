"""The capture report: what it says about each photo, what advice it gives, and a page that stands alone."""

from __future__ import annotations

import html.parser
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from nerfstudio_ext.scenes.capture_page import render_page
from nerfstudio_ext.scenes.capture_report import CaptureFacts, build_report
from nerfstudio_ext.scenes.exif import PhotoExif
from nerfstudio_ext.scenes.images import ImageInfo
from nerfstudio_ext.scenes.photo_check import Photo, SkippedPhoto
from nerfstudio_ext.scenes.sfm_solution import MatchSummary, PoseSolution, SolvedCamera, SolvedPhoto
from nerfstudio_ext.scenes.write_transforms import camera_to_world
from tests.poses.test_write_transforms import ring


def photo(i: int, **changes: object) -> Photo:
    info = ImageInfo(400, 300, 1, False, 1, "JPEG")
    plain = Photo(Path(f"{i}.jpg"), f"{i}.jpg", info, PhotoExif(0.8), 100.0, 120.0, "AAAA", Path("g"), (400, 300))
    return replace(plain, **changes)  # type: ignore[arg-type]


def facts(n: int = 12, placed: int | None = None, **changes: object) -> CaptureFacts:
    placed = n if placed is None else placed
    links = tuple((i, j, 50) for i in range(n) for j in range(i + 1, min(n, i + 4)))
    matches = MatchSummary((1200,) * n, links, 0.3)
    solved = tuple(
        SolvedPhoto(f"{i}.jpg", i, 1, camera_to_world(pose), 200, 0.5) for i, pose in enumerate(ring(n)[:placed])
    )
    points = np.column_stack([np.random.default_rng(0).normal(size=(50, 3)), np.full((50, 5), 4.0)])
    solution = PoseSolution(
        cameras={1: SolvedCamera("OPENCV", 400, 300, (400.0, 400.0, 200.0, 150.0, 0, 0, 0, 0))}, photos=solved,
        points=points, error_px=0.5, n_observations=200, baseline_share=1.0, n_models=1, principal_point_refined=False,
        matches=matches, attempts=({"name": "first", "outcome": "placed", "seconds": 1.0},), seconds={"match": 1.0},
        cpu_seconds={"match": 1.0}, model_dir=Path(), version="4",
    )  # fmt: skip
    whole = CaptureFacts(
        source="in", photos=[photo(i) for i in range(n)], names=[f"{i}.jpg" for i in range(n)], skipped=[],
        matches=matches, solution=solution, up=np.eye(3), problem="", seconds={"check": 0.1}, settings={"seed": 0},
    )  # fmt: skip
    return replace(whole, **changes)  # type: ignore[arg-type]


def advice_of(given: CaptureFacts) -> str:
    return "\n".join(build_report(given)["advice"])


def test_a_good_capture_gets_no_reproach() -> None:
    report = build_report(facts(40))
    assert report["advice"] == []
    assert report["summary"]["registered_share"] == 1
    assert report["summary"]["n_blurred"] == 0
    assert all(row["registered"] for row in report["photos"])


def test_blur_is_judged_against_the_neighbours_not_the_whole_set() -> None:
    # The second half shows a plainer subject: half as sharp, and none of it blurred.
    photos = [photo(i, sharpness=200.0 if i < 10 else 90.0) for i in range(20)]
    photos[4] = photo(4, sharpness=40.0)
    report = build_report(facts(20, photos=photos))
    assert [row["file"] for row in report["photos"] if row["is_blurred"]] == ["4.jpg"]
    assert "1 photos are blurred (4.jpg)" in "\n".join(report["advice"])


def test_exposure_is_judged_by_exif_or_else_by_brightness() -> None:
    by_exif = [photo(i, exif=PhotoExif(0.8, "", -8.0 + (2.0 if i == 3 else 0.0))) for i in range(12)]
    assert "2.0 stops" in advice_of(facts(photos=by_exif))
    jumps = [photo(i, brightness=40.0 if i == 6 else 120.0) for i in range(12)]
    assert "Brightness jumps at 6.jpg" in advice_of(facts(photos=jumps))


def test_missing_cameras_and_split_captures_are_named() -> None:
    assert "3 photos could not be placed (9.jpg, 10.jpg, 11.jpg)" in advice_of(facts(12, placed=9))
    split = MatchSummary((1200,) * 12, tuple((i, i + 1, 50) for i in range(11) if i != 5), 0.3)
    text = advice_of(facts(12, matches=split))
    assert "the largest has 6 of 12" in text
    assert "overlap with fewer than 3 others" in text


def test_little_texture_one_spot_and_wrong_exif_are_told() -> None:
    plain = facts()
    assert plain.solution is not None
    poor = MatchSummary((100,) * 12, plain.solution.matches.links, 0.3)
    assert "little texture" in advice_of(facts(matches=poor))
    assert "one spot" in advice_of(facts(solution=replace(plain.solution, baseline_share=0.01)))
    assert "Points miss their place" in advice_of(facts(solution=replace(plain.solution, error_px=3.0)))
    wrong = [photo(i, exif=PhotoExif(8.0)) for i in range(12)]
    assert "EXIF states 10 times the focal length" in advice_of(facts(photos=wrong))


def test_a_capture_without_cameras_still_has_a_report() -> None:
    report = build_report(facts(solution=None, up=None, problem="poses: nothing"))
    assert report["summary"]["n_registered"] == 0
    assert report["summary"]["largest_group"] == 12
    assert "poses: nothing" in render_page(report, facts(solution=None, up=None, problem="poses: nothing"))


class Checker(html.parser.HTMLParser):
    VOID = {"meta", "img", "rect", "polygon", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID or (tag == "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_stands_alone() -> None:
    given = facts(12, placed=11)
    page = render_page(build_report(given), given)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.tags.count("polygon") == 2 * 11  # each camera from above and from the side
    assert checker.tags.count("img") == 12
    assert "script" not in checker.tags
    assert all(target.startswith("data:") for target in re.findall(r"(?:src|href)=[\"']?([^\"'>]*)", page))


def test_texts_from_the_capture_are_escaped() -> None:
    evil = "<script>alert(1)</script>.jpg"
    given = facts(
        photos=[photo(i, name=evil) if i == 0 else photo(i) for i in range(12)], skipped=[SkippedPhoto(evil, "<b>")]
    )
    page = render_page(build_report(given), given)
    assert "<script" not in page
    assert "<b>" + "&lt;script" in page


def test_cameras_stand_where_they_are_in_the_plot() -> None:
    given = facts(12)
    page = render_page(build_report(given), given)
    first = page[page.index("<svg") : page.index("</svg>")]
    tips = [
        [float(v) for v in match.split()[0].split(",")] for match in re.findall(r'<polygon points="([^"]+)"', first)
    ]
    centres = ring(12)[:, :2, 3]
    # Up to scale and shift the same figure, with y pointing up on the page.
    drawn = np.array(tips) * [1, -1]
    drawn, centres = drawn - drawn.mean(0), centres - centres.mean(0)
    scale = (drawn * centres).sum() / (centres**2).sum()
    assert scale > 0
    assert np.abs(drawn - scale * centres).max() < 0.2
