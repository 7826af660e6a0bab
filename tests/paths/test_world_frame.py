"""The frame people choose: laws of up, origin and metres, and the files that carry it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from nerfstudio_ext.camera_paths import WorldFrame, read_world_frame, world_frame_from_json, world_frame_of
from nerfstudio_ext.camera_paths.world_frame import stamp_world_frame, turn_to, write_world_frame
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.viewer.world_frame import WorldFrames

F64 = torch.float64


@dataclass
class Frame:
    rotation: torch.Tensor
    translation: torch.Tensor
    scale: float


def random_rotation() -> torch.Tensor:
    q = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
    return q * torch.linalg.det(q).sign()


@pytest.fixture
def frame() -> Frame:
    return Frame(random_rotation(), torch.randn(3, dtype=F64), 0.4)


def to_training(frame: Frame, x: torch.Tensor) -> torch.Tensor:
    return frame.scale * (frame.rotation @ x) + frame.translation


def to_world(world: WorldFrame, x: torch.Tensor) -> torch.Tensor:
    return world.scale * (world.rotation @ x) + world.translation


def test_the_smallest_turn_takes_one_direction_to_another() -> None:
    for _ in range(20):
        a, b = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)
        turn = turn_to(a, b)
        assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=F64)) and torch.linalg.det(turn) > 0
        assert torch.allclose(turn @ a / a.norm(), b / b.norm())
        across = torch.linalg.cross(a, b)
        assert torch.allclose(turn @ across, across), "no more than needed"
    z = torch.tensor([0.0, 0, 1], dtype=F64)
    assert torch.allclose(turn_to(z, -z) @ z, -z) and torch.allclose(turn_to(z, z), torch.eye(3, dtype=F64))


def test_up_origin_and_metres_are_what_was_chosen(frame: Frame) -> None:
    up, origin = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)
    world = world_frame_of(frame, up, origin, 2.5)
    a, b = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)
    seen = [to_world(world, x) for x in (a, b)]
    trained = [to_training(frame, x) for x in (a, b)]
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(2.5 * float((trained[1] - trained[0]).norm()))
    above = frame.rotation.T @ (origin + up - frame.translation) / frame.scale
    below = frame.rotation.T @ (origin - frame.translation) / frame.scale
    assert torch.allclose((to_world(world, below)), torch.zeros(3, dtype=F64), atol=1e-6)
    # `below` mixes scale and shift: what matters is that up is z.
    direction = to_world(world, above) - to_world(world, below)
    assert torch.allclose(direction / direction.norm(), torch.tensor([0.0, 0, 1], dtype=F64), atol=1e-9)
    assert world.is_metric and world.unit == "m"


def test_nothing_chosen_is_the_capture_itself(frame: Frame) -> None:
    up = frame.rotation[:, 2]
    world = world_frame_of(frame, up, to_training(frame, torch.zeros(3, dtype=F64)), None)
    assert torch.allclose(world.rotation, torch.eye(3, dtype=F64), atol=1e-9) and world.scale == pytest.approx(1.0)
    assert torch.allclose(world.translation, torch.zeros(3, dtype=F64), atol=1e-9) and not world.is_metric


def test_the_choices_do_not_disturb_each_other(frame: Frame, tmp_path) -> None:
    up = tuple(frame.rotation[:, 2].tolist())
    worlds = WorldFrames(tmp_path, frame, up)
    assert torch.allclose(torch.tensor(worlds.up, dtype=F64), torch.tensor(up, dtype=F64), atol=1e-9)
    assert worlds.chosen is None and worlds.metres_per_unit is None
    new_up, origin = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)
    changes: list[int] = []
    worlds.on_change.append(lambda: changes.append(1))
    a, b = torch.randn(3, dtype=F64), torch.randn(3, dtype=F64)
    worlds.set_length(a, b, 3.0)
    worlds.set_up(new_up)
    worlds.set_origin(origin)
    assert len(changes) == 3
    assert torch.allclose(torch.tensor(worlds.up, dtype=F64), new_up / new_up.norm(), atol=1e-9)
    assert torch.allclose(worlds.origin, origin, atol=1e-9)
    assert float((worlds.to_world(a) - worlds.to_world(b)).norm()) == pytest.approx(3.0)
    again = WorldFrames(tmp_path, frame, up)
    assert torch.allclose(again.origin, origin, atol=1e-6) and again.metres_per_unit == pytest.approx(
        worlds.metres_per_unit
    )
    worlds.reset()
    assert worlds.metres_per_unit is None


def test_files_carry_it(tmp_path, frame: Frame) -> None:
    world = world_frame_of(frame, torch.tensor([0.0, 1, 0], dtype=F64), torch.zeros(3, dtype=F64), 0.5)
    assert read_world_frame(tmp_path) is None
    write_world_frame(world, tmp_path)
    back = read_world_frame(tmp_path)
    assert back is not None and torch.allclose(back.rotation, world.rotation, atol=1e-12) and back.is_metric
    side = tmp_path / "film.mp4.json"
    side.write_text('{"schema": 1, "kept": [1, 2]}')
    stamp_world_frame(side, world)
    document = json.loads(side.read_text())
    assert document["kept"] == [1, 2] and document["world_frame"]["unit"] == "metre"
    assert world_frame_from_json(document["world_frame"]).scale == pytest.approx(world.scale)
    before = side.read_bytes()
    stamp_world_frame(side, None)
    assert side.read_bytes() == before


@pytest.mark.parametrize("broken", [
    {}, {"rotation": [[1, 0], [0, 1]], "translation": [0, 0, 0], "scale": 1},
    {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]], "translation": [0, 0, 0], "scale": 1},
    {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "translation": [0, 0, 0], "scale": 0},
])  # fmt: skip
def test_damaged_frames_are_refused(broken, tmp_path) -> None:
    with pytest.raises(UserError):
        world_frame_from_json(broken)
    (tmp_path / "world_frame.json").write_text(json.dumps(broken))
    assert WorldFrames(tmp_path, None, (0.0, 0.0, 1.0)).chosen is None, "the viewer goes on without"


def test_impossible_choices_are_refused(tmp_path) -> None:
    worlds = WorldFrames(tmp_path, None, (0.0, 0.0, 1.0))
    zero = torch.zeros(3, dtype=F64)
    for wrong in (lambda: worlds.set_up(zero), lambda: worlds.set_length(zero, zero, 1.0),
                  lambda: worlds.set_length(zero, zero + 1, -1.0), lambda: worlds.set_origin(zero / 0)):  # fmt: skip
        with pytest.raises(UserError):
            wrong()
    assert worlds.chosen is None and not list(tmp_path.iterdir())
