"""What browsers send is checked once; the slot keeps the newest."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.viewer.views import LatestSlot, View, checked_view, rotation_of

GOOD = {"position": (1.0, 2.0, 3.0), "wxyz": (1.0, 0.0, 0.0, 0.0), "fov_y": 1.0, "width": 640, "height": 400}


@pytest.mark.parametrize(
    "bad",
    [
        {"wxyz": (math.nan, 0, 0, 0)},
        {"wxyz": (0, 0, 0, 0)},
        {"wxyz": (1e300, 1e300, 0, 0)},
        {"wxyz": (1, 0, 0)},
        {"wxyz": None},
        {"position": (0, math.inf, 0)},
        {"position": (0, 0, 1e30)},
        {"position": ("a", 0, 0)},
        {"fov_y": 1e9},
        {"fov_y": 0.0},
        {"fov_y": -1.0},
        {"fov_y": math.nan},
        {"fov_y": math.pi},
        {"width": 10**9, "height": 10**9},
        {"width": 0},
        {"height": -5},
        {"width": 16000, "height": 10},
        {"width": math.nan},
        {"height": math.inf},
    ],
)
def test_unusable_cameras_are_refused(bad):
    assert checked_view(**{**GOOD, **bad}) is None


def test_a_quaternion_is_normalised():
    view = checked_view(**{**GOOD, "wxyz": (3.0, 0.0, 4.0, 0.0)})
    assert view is not None and view.wxyz == pytest.approx((0.6, 0.0, 0.8, 0.0))


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(v * v for v in q) > 1e-3))
def test_rotations_are_rotations(quaternion):
    length = math.sqrt(sum(v * v for v in quaternion))
    rotation = rotation_of([v / length for v in quaternion])
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(rotation) == pytest.approx(1.0)


def test_rotation_agrees_with_viser():
    import viser.transforms

    quaternion = (0.5, -0.1, 0.7, 0.2)
    length = math.sqrt(sum(v * v for v in quaternion))
    unit = [v / length for v in quaternion]
    expected = torch.tensor(viser.transforms.SO3(torch.tensor(unit).double().numpy()).as_matrix())
    assert torch.allclose(rotation_of(unit), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(640, 400), (333, 777), (1920, 1001)])
@pytest.mark.parametrize("long_side", [128, 333, 1024])
def test_every_rung_shows_the_same_view(size, long_side):
    """A point projects to the same place of the canvas whatever the resolution."""
    view = View((0.0, 0.0, -3.0), (1.0, 0.0, 0.0, 0.0), 0.9, *size)
    camera = view.camera(long_side)
    assert max(camera.width, camera.height) == long_side
    uv, _ = camera.project(torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64))
    full, _ = view.camera(max(size)).project(torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64))
    share = uv[0] / torch.tensor([camera.width, camera.height])
    assert torch.allclose(share, full[0] / torch.tensor(size), atol=1e-9)


def test_the_slot_keeps_the_newest_and_counts_changes():
    now = [10.0]
    slot = LatestSlot(lambda: now[0])
    assert slot.newest is None
    first, second = checked_view(**GOOD), checked_view(**{**GOOD, "fov_y": 1.1})
    assert slot.put(first)
    assert slot.newest.is_first and slot.newest.seq == 1
    now[0] = 11.0
    assert not slot.put(first), "the same view again is no movement"
    assert slot.newest.changed_at == 10.0
    assert not slot.put(None)
    assert slot.put(second)
    assert (slot.newest.view, slot.newest.seq, slot.newest.changed_at, slot.newest.is_first) == (second, 2, 11.0, False)


def test_the_slot_holds_under_many_writers():
    slot = LatestSlot(lambda: 0.0)
    views = [checked_view(**{**GOOD, "position": (float(i), float(j), 0.0)}) for i in range(4) for j in range(200)]
    parts = [views[start : start + 200] for start in range(0, 800, 200)]
    threads = [threading.Thread(target=lambda part=part: [slot.put(v) for v in part]) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slot.newest.seq == 800
