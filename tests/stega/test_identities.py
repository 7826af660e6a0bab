"""Several owners in one scene: regions by place, identities far apart, and pictures that say whose they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.cli.stega_inputs import messages_of
from nerfstudio_ext.cli.stega_verify import reader_of
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.stages.stega.identities import regions, share_out
from nerfstudio_ext.stages.stega.marked_run import mark_run
from nerfstudio_ext.stages.stega.messages import LAYOUTS, UNCODED, Message
from nerfstudio_ext.stages.stega.owner_table import OwnerRow, measure_owners
from nerfstudio_ext.stages.stega.robustness import RobustnessSettings
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import OpenedRun
from tests.stega.marks import KEY, OWNER
from tests.stega.wall_marks import READER, SETTINGS, SIZE
from tests.stega.wall_scene import wall_meta, wall_run

SECOND = Message.from_id("0badcafe0002")
SIDES = (-0.45, 0.45)


def cameras_at(places: list[tuple[float, float, float]]) -> Cameras:
    c2w = torch.eye(3, 4, dtype=torch.float64).repeat(len(places), 1, 1)
    c2w[:, :, 3] = torch.tensor(places)
    return Cameras([Camera.perspective(64, 64, 40.0, pose) for pose in c2w])


def test_regions_are_groups_of_neighbours_and_none_is_empty() -> None:
    two = wall_meta(sides=SIDES).cameras
    owner = regions(two, 2)
    assert len(set(owner[:8])) == len(set(owner[8:])) == 1 and owner[0] != owner[8]
    line = cameras_at([(float(x), 0.0, 0.0) for x in range(12)])
    for count in (1, 2, 3, 5, 12):
        owner = regions(line, count)
        assert set(owner) == set(range(count))
        changes = sum(a != b for a, b in zip(owner, owner[1:], strict=False))
        assert changes == count - 1, "every region of a row of cameras is one piece of it"
    assert set(regions(cameras_at([(1.0, 2.0, 3.0)] * 4), 3)) == {0, 1, 2}


def test_a_view_belongs_to_the_owner_of_the_nearest_camera() -> None:
    meta = wall_meta(sides=SIDES)
    owners = share_out([OWNER, SECOND], meta.cameras, KEY, LAYOUTS[0])
    assert owners.of(list(meta.cameras)) == list(owners.owner_of_camera)
    moved = [dataclasses.replace(c, c2w=c.c2w + 0.02 * (torch.arange(4) == 3)) for c in meta.cameras]
    assert owners.of(moved) == list(owners.owner_of_camera)
    code_of = owners.code_of(moved)
    assert torch.equal(code_of(0), owners.signs[owners.owner_of_camera[0]]) and not torch.equal(code_of(0), code_of(8))
    alone = share_out([OWNER], meta.cameras, KEY, LAYOUTS[0])
    assert alone.of(moved) == [0] * 16 and alone.min_distance is None


def test_owners_that_could_be_mistaken_for_each_other_are_refused() -> None:
    cameras = cameras_at([(float(x), 0.0, 0.0) for x in range(4)])
    close = Message.from_id("00c0ffee0003")  # one bit from the owner's
    coded = share_out([OWNER, close, SECOND], cameras, KEY, LAYOUTS[0])
    assert coded.min_distance is not None and coded.min_distance >= 27, "the code keeps any two identities apart"
    assert coded.to_json()["min_distance"] == coded.min_distance
    with pytest.raises(UserError, match="owners 1 and 2 differ in 1 of 48 code bits only; at least 10"):
        share_out([OWNER, close], cameras, KEY, UNCODED)
    with pytest.raises(UserError, match="owners 1 and 3 are equal"):
        share_out([OWNER, SECOND, OWNER], cameras, KEY, LAYOUTS[0])
    with pytest.raises(UserError, match="5 owners, but 4 cameras"):
        share_out([OWNER] * 5, cameras, KEY, LAYOUTS[0])


def test_the_words_of_the_command_line_become_messages() -> None:
    assert messages_of([OWNER.text, SECOND.text], None, None) == [OWNER, SECOND]
    assert messages_of([], "hello", None) == [Message.from_text("hello")]
    for wrong in (([], None, None), ([OWNER.text], "hello", None)):
        with pytest.raises(UserError, match="message was given"):
            messages_of(*wrong)


def test_a_table_counts_own_others_and_nobody() -> None:
    row = OwnerRow("clean", "8 bit", [[3, 1, 0], [0, 2, 2]])
    assert row.counts == (5, 1, 2) and row.to_json()["confusion"] == row.confusion


@pytest.mark.slow
def test_pictures_from_each_region_say_whose_they_are(tmp_path: Path) -> None:
    meta = wall_meta(SIZE, SIDES)
    embed = dataclasses.replace(SETTINGS.embed, steps=50)
    settings = dataclasses.replace(SETTINGS, embed=embed, photo_views=8, other_views=0)
    child = mark_run(wall_run(meta, tmp_path), None, KEY, OWNER, tmp_path, others=[SECOND], settings=settings)
    assert child.check.confusion == [[2, 0, 0], [0, 2, 0]]
    assert child.check.found_together["clean"]
    mark = json.loads((child.path / "mark.json").read_text())
    assert (
        mark["owners"]["owner_of_camera"]
        == [mark["owners"]["owner_of_camera"][0]] * 8 + [mark["owners"]["owner_of_camera"][8]] * 8
    )
    assert mark["owners"]["count"] == 2 and mark["owners"]["min_distance"] >= 27
    text = (child.path / "mark.json").read_text() + (child.path / "config.json").read_text()
    assert OWNER.text not in text and SECOND.text not in text, "the child does not say who its owners are"
    method = child.marking.method
    settings = RobustnessSettings(views=4, size=SIZE, groups=("clean", "brightness"))
    rows = measure_owners(method, meta, child.owners, READER, settings, SilentProgress())
    assert [row.group for row in rows] == ["clean", "brightness", "brightness"]
    assert rows[0].confusion == child.check.confusion and all(row.counts[1] == 0 for row in rows)
    opened = OpenedRun(child.path, RunConfig(method.config), meta, method, 1)
    with pytest.raises(UserError, match="has 2 owner.s., and 1 message"):
        reader_of(opened, KEY, [OWNER])
    assert reader_of(opened, KEY, [OWNER, SECOND])[1] == SIZE
