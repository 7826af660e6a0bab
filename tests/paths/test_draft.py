"""Editing a path: what each change does, and what survives the file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from nerfstudio_ext.camera_paths import (
    DraftKey,
    PathDraft,
    camera_path_from_bytes,
    camera_path_to_json,
    draft_from_path,
    read_camera_path,
    write_camera_path,
)
from nerfstudio_ext.camera_paths.curves import KeyCurve
from nerfstudio_ext.camera_paths.layout import look_at
from nerfstudio_ext.errors import UserError

UP = np.array([0.0, 0.0, 1.0])


def key(angle_deg: float, radius: float = 2.0, **settings: object) -> DraftKey:
    angle = math.radians(angle_deg)
    eye = np.array([radius * math.cos(angle), radius * math.sin(angle), 0.5])
    return DraftKey(look_at(eye, np.zeros(3), UP), **settings)


def draft(**settings: object) -> PathDraft:
    made = PathDraft(keys=tuple(key(a) for a in (0, 60, 130, 240)))
    return made.changed(**({"size": (64, 48), "fps": 10.0} | settings))


def eyes(path) -> np.ndarray:
    return path.cameras.c2w[:, :, 3].numpy()


def test_keys_are_added_moved_copied_and_deleted() -> None:
    base = draft()
    new = key(20)
    assert base.added(new, 0).keys[1] is new and base.added(new).keys[-1] is new
    assert base.duplicated(1).keys[2] is base.keys[1] and len(base.duplicated(1).keys) == 5
    assert base.without(2).keys == base.keys[:2] + base.keys[3:]
    assert base.moved(0, 1).keys[:2] == (base.keys[1], base.keys[0])
    assert base.moved(3, 9).keys == base.keys and base.moved(0, -1).keys == base.keys
    assert len(base.keys) == 4, "a draft never changes itself"
    with pytest.raises(UserError):
        base.without(4)


def test_reversing_twice_changes_nothing() -> None:
    base = PathDraft(keys=tuple(key(a, transition_s=float(i + 1)) for i, a in enumerate((0, 40, 90))))
    back = base.reversed().reversed()
    assert [k.transition_s for k in back.keys] == [1.0, 2.0, 3.0] and back.keys[0].c2w is base.keys[0].c2w
    there = base.reversed()
    assert there.seconds == base.seconds and [k.transition_s for k in there.keys[:2]] == [2.0, 1.0]


@pytest.mark.parametrize("is_loop", [False, True])
@pytest.mark.parametrize("tension", [0.0, 0.5, 1.0])
def test_even_speed_is_even(is_loop: bool, tension: float) -> None:
    path = draft(is_loop=is_loop, tension=tension, fps=30.0).to_path()
    curve = draft(is_loop=is_loop, tension=tension).curve()
    eye, c2w = eyes(path), path.cameras.c2w
    turned = torch.arccos(((c2w[1:, :, :3] * c2w[:-1, :, :3]).sum((1, 2)) / 2 - 0.5).clamp(-1, 1)).numpy()
    speed = np.hypot(np.linalg.norm(np.diff(eye, axis=0), axis=1), curve.radian_weight * turned)
    assert speed.std() < 0.03 * speed.mean()
    if is_loop:
        assert np.linalg.norm(eye[0] - eye[-1]) < 1.5 * np.linalg.norm(eye[1] - eye[0])


def test_keys_are_reached_at_their_own_times() -> None:
    base = draft(is_even=False, transition_s=1.0, fps=20.0).with_key(1, transition_s=3.0)
    path = base.to_path()
    assert base.times.tolist() == [0, 1, 4, 5] and len(path) == 100
    steps = eyes(path)
    times = np.linspace(0, 5, 100)
    for at, wanted in zip(base.times, base.keys, strict=True):
        nearest = steps[np.abs(times - at).argmin()]
        assert np.linalg.norm(nearest - wanted.c2w[:, 3].numpy()) < 0.12
    speed = np.linalg.norm(np.diff(steps, axis=0), axis=1)
    assert (speed > 0).all() and np.abs(np.diff(speed)).max() < 0.35 * speed.max(), "no stop and no jerk at a key"


def test_full_tension_flies_straight() -> None:
    path = draft(tension=1.0).to_path()
    keys = np.stack([k.c2w[:, 3].numpy() for k in draft().keys])
    for eye in eyes(path):
        distances = []
        for a, b in zip(keys, keys[1:], strict=False):
            t = np.clip((eye - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            distances.append(np.linalg.norm(a + t * (b - a) - eye))
        assert min(distances) < 1e-6
    curved = draft(tension=0.0).to_path()
    assert np.linalg.norm(eyes(curved) - eyes(path), axis=1).max() > 0.05


def test_each_key_has_its_own_field_of_view_or_the_common_one() -> None:
    base = draft(fov_y_deg=50.0).with_key(2, fov_y_deg=80.0)
    path = base.to_path()
    fovs = [math.degrees(2 * math.atan(24 / float(c.K[1, 1]))) for c in path.cameras]
    assert fovs[0] == pytest.approx(50) and max(fovs) == pytest.approx(80, abs=1.5) and fovs[-1] == pytest.approx(50)


@pytest.mark.parametrize("lens", ["perspective", "fisheye", "equirectangular"])
def test_a_draft_survives_its_file(tmp_path, lens) -> None:
    base = draft(lens=lens, is_loop=True, tension=0.3, is_even=False, transition_s=1.5, fov_y_deg=55.0)
    base = base.with_key(1, transition_s=0.7).with_key(2, fov_y_deg=70.0)
    file = write_camera_path(base.to_path(), tmp_path / "p.json")
    back = draft_from_path(read_camera_path(file))
    for name in ("is_loop", "is_even", "size", "lens"):
        assert getattr(back, name) == getattr(base, name), name
    for name in ("tension", "transition_s", "fov_y_deg", "fps"):
        assert getattr(back, name) == pytest.approx(getattr(base, name)), name
    assert [k.transition_s for k in back.keys] == [None, 0.7, None, None]
    assert [k.fov_y_deg for k in back.keys] == [None, None, pytest.approx(70.0), None]
    for a, b in zip(back.keys, base.keys, strict=True):
        assert torch.allclose(a.c2w, b.c2w, atol=1e-9)
    again, first = back.to_path(), base.to_path()
    assert torch.allclose(again.cameras.c2w, first.cameras.c2w, atol=1e-9)
    assert torch.allclose(again.cameras.intrinsics, first.cameras.intrinsics, atol=1e-6)
    document = json.loads(file.read_text())
    assert document["camera_type"] == lens and document["smoothness_value"] == 0.3 and document["is_cycle"] is True


def test_a_path_without_keys_becomes_editable() -> None:
    document = camera_path_to_json(draft().to_path())
    document["keyframes"] = []
    opened = draft_from_path(camera_path_from_bytes(json.dumps(document).encode()))
    assert 2 <= len(opened.keys) <= 24 and opened.size == (64, 48)
    assert np.linalg.norm(opened.keys[0].c2w[:, 3].numpy() - draft().keys[0].c2w[:, 3].numpy()) < 1e-9


@pytest.mark.parametrize(("settings", "word"), [
    ({"fov_y_deg": 0.0}, "field of view"), ({"fov_y_deg": math.nan}, "field of view"),
    ({"transition_s": 0.0}, "transition"),
    ({"fps": 0.0}, "frames per second"), ({"size": (0, 5)}, "image size"), ({"tension": 2.0}, "tension"),
])  # fmt: skip
def test_impossible_settings_are_refused(settings, word) -> None:
    with pytest.raises(UserError, match=word):
        draft(**settings)


@pytest.mark.parametrize("keys", [(), (key(0),), (key(0), key(0)), (key(0), key(0), key(40))])
def test_too_few_keys_are_no_path(keys) -> None:
    with pytest.raises(UserError):
        PathDraft(keys=keys).to_path()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[]", b'{"x": 1}', b'{"camera_path": NaN}'])
def test_uploads_that_are_no_path_are_refused(content: bytes) -> None:
    with pytest.raises(UserError):
        camera_path_from_bytes(content)


def test_times_never_run_backwards() -> None:
    curve = KeyCurve(np.cumsum(np.ones((5, 3)), 0), np.stack([np.eye(3)] * 5), np.zeros(5))
    times = np.array([0.0, 5.0, 5.1, 9.0, 9.05])
    u = curve.timed(times, np.linspace(0, 9.05, 500))
    assert (np.diff(u) >= -1e-12).all() and u[0] == curve.knots[0] and u[-1] == pytest.approx(curve.knots[-1])
