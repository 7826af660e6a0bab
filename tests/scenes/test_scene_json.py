"""scene.json: what is written is read back, and nothing in it is trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.scenes import SceneMeta, load_scene
from nerfstudio_ext.scenes.scene_json import read_scene_json, write_scene_json
from tests.scenes.builders import save_pictures, transforms, write_colmap_binary, write_transforms


@pytest.fixture
def meta(tmp_path: Path) -> SceneMeta:
    write_colmap_binary(tmp_path / "capture/sparse/0", save_pictures(tmp_path / "capture/images", 9))
    return load_scene(tmp_path / "capture").meta


def assert_equal(a: SceneMeta, b: SceneMeta) -> None:
    for name in ("name", "kind", "image_names", "split", "background", "has_alpha", "source"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("c2w", "intrinsics", "sizes", "lens_params", "lens_kinds"):
        assert torch.equal(getattr(a.cameras, name), getattr(b.cameras, name)), name
    assert torch.equal(a.frame.rotation, b.frame.rotation) and torch.equal(a.frame.translation, b.frame.translation)
    assert (a.frame.scale, a.frame.aabb_scale) == (b.frame.scale, b.frame.aabb_scale)
    assert (a.points is None) == (b.points is None)
    assert a.points is None or np.array_equal(a.points, b.points)
    assert (a.applied_transform is None) == (b.applied_transform is None)
    assert a.applied_transform is None or torch.equal(a.applied_transform, b.applied_transform)


def test_round_trip_is_exact(tmp_path: Path, meta: SceneMeta) -> None:
    write_scene_json(meta, tmp_path / "scene.json")
    assert_equal(read_scene_json(tmp_path / "scene.json"), meta)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["capture", "scene.json", "scene_points.npy"]


def test_round_trip_with_lens_transform_and_no_points(tmp_path: Path) -> None:
    top = {"k1": 0.01, "applied_transform": [[1, 0, 0, 0.1], [0, 0, 1, 0], [0, -1, 0, 0]]}
    meta = load_scene(write_transforms(tmp_path / "capture", transforms(4, **top))).meta
    write_scene_json(meta, tmp_path / "scene.json")
    assert_equal(read_scene_json(tmp_path / "scene.json"), meta)


def set_at(place: str, value: Any):
    def damage(document: dict[str, Any]) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in place.split("/")]
        target: Any = document
        for step in steps:
            target = target[step]
        target[last] = value

    return damage


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("schema", 2, "scene description of version 2, this program reads version 1"),
        ("images", {}, "'images' is not a list of objects"),
        ("images/3/width", 0, "scene.json: images[3].width: expected a whole number from 1 to 1000000, found 0"),
        ("images/3/lens", "magic", "scene.json: images[3]: unknown lens 'magic'"),
        ("images/3/c2w/0/0", "x", "scene.json: images[3].c2w[0][0]: expected a number, found text"),
        ("images/3/c2w/0", [0, 0, 0, 0], "scene.json: images[3].c2w: the rotation is flat"),
        ("images/3/K", [[1, 2, 3]], "scene.json: images[3].K: expected 3x3 numbers"),
        ("images/3/name", None, "scene.json: images[3].name: expected text, found null"),
        ("split/test", [99], "scene.json: split.test: expected positions of images, 0 to 8"),
        ("split/train", [0.5], "scene.json: split.train: expected positions"),
        ("frame/scale", -1.0, "scene.json: frame: impossible scale -1"),
        ("frame/aabb_scale", 3, "impossible scale"),
        ("frame/rotation/0/0", 9.0, "scene.json: frame.rotation: not a rotation"),
        ("frame", None, "scene.json: frame: expected an object"),
        ("background", [1, 1], "scene.json: background: expected a list of 3 numbers"),
    ],
)
def test_damage_is_named(tmp_path: Path, meta: SceneMeta, place: str, value: Any, message: str) -> None:
    path = tmp_path / "scene.json"
    write_scene_json(meta, path)
    document = json.loads(path.read_text())
    set_at(place, value)(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        read_scene_json(path)
    assert message in caught.value.line


def test_points_are_never_unpickled_nor_looked_for_elsewhere(tmp_path: Path, meta: SceneMeta) -> None:
    path = tmp_path / "scene.json"
    write_scene_json(meta, path)
    document = json.loads(path.read_text()) | {"points": "/etc/passwd"}
    path.write_text(json.dumps(document))
    assert np.array_equal(read_scene_json(path).points, meta.points)
    np.save(tmp_path / "scene_points.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="an array of object, not of numbers"):
        read_scene_json(path)
    np.save(tmp_path / "scene_points.npy", np.zeros((4, 2), np.float32))
    with pytest.raises(UserError, match=r"expected points \[P,3\] float32"):
        read_scene_json(path)
    (tmp_path / "scene_points.npy").unlink()
    with pytest.raises(UserError, match="the scene's points cannot be read"):
        read_scene_json(path)
