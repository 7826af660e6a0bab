"""Points lie on the surface, with its colours and normals, in the frame the file names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.camera_paths import CropBox
from nerfstudio_ext.camera_paths.similarity import FrameChange
from nerfstudio_ext.camera_paths.world_frame import WorldFrame
from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters.placement import Placement
from nerfstudio_ext.exporters.points import PointOptions, are_alone, export_points
from nerfstudio_ext.renderer import CancelToken, Frame, RayRenderer

from .analytic import FRAME, RADIUS, around, paint, see
from .ball import opaque_ball

PLAIN = Placement.of(None)


@dataclass(frozen=True)
class Cloud:
    positions: np.ndarray
    normals: np.ndarray
    colors: np.ndarray


def read_cloud(file: Path) -> Cloud:
    """Positions, normals and colours of a PLY file, by its header."""
    content = file.read_bytes()
    head, body = content[: content.index(b"end_header\n")].decode(), content[content.index(b"end_header\n") + 11 :]
    n = int(head.split("element vertex ")[1].split()[0])
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [line.split()[1:] for line in head.splitlines() if line.startswith("property") and "list" not in line]
    table = np.frombuffer(body, np.dtype([(name, kinds[kind]) for kind, name in fields]), n)
    groups = [("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")]
    return Cloud(*(np.stack([table[name] for name in group], 1) for group in groups))


def export(tmp_path: Path, placement: Placement = PLAIN, renderer: RayRenderer | None = None, **options: object):
    target = tmp_path / "points.ply"
    settings = PointOptions(**{"n_points": 20_000, **options})  # type: ignore[arg-type]
    n = export_points(renderer or RayRenderer(see), around(), target, settings, placement)
    cloud = read_cloud(target)
    assert len(cloud.positions) == n
    return cloud, json.loads((tmp_path / "points.ply.json").read_text())


def test_points_lie_on_the_ball_with_its_normals_and_colours(tmp_path: Path) -> None:
    cloud, side = export(tmp_path)
    assert len(cloud.positions) == 20_000 == side["n_points"]
    assert np.abs(np.linalg.norm(cloud.positions, axis=1) - RADIUS).max() < 1e-5
    cosine = (cloud.normals * cloud.positions / RADIUS).sum(1)
    assert cosine.min() > 0.8 and cosine.mean() > 0.99
    truth = 255 * paint(torch.from_numpy(cloud.positions)).numpy()
    assert np.abs(cloud.colors - truth).max() < 2
    # All sides are there: every direction has a point within 8 degrees.
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert (directions @ cloud.positions.T / RADIUS).max(1).min() > 0.99


@pytest.mark.parametrize(("up", "scale"), [("z", 1.0), ("y", 100.0)])
def test_the_file_is_in_the_frame_of_the_capture_or_the_chosen_one(tmp_path: Path, up: str, scale: float) -> None:
    world = WorldFrame(torch.eye(3, dtype=torch.float64), torch.tensor([0.0, 0, 5], dtype=torch.float64), 2.0, True)
    for chosen in (None, world):
        folder = tmp_path / str(chosen is None)
        cloud, side = export(folder, Placement.of(FRAME, chosen, up=up, scale=scale))  # type: ignore[arg-type]
        center = -FRAME.rotation.T @ FRAME.translation / FRAME.scale
        radius = RADIUS / FRAME.scale
        if chosen is not None:
            center, radius = 2 * center + world.translation, 2 * radius
        x, y, z = center.tolist()
        center_in_file = scale * np.array([x, y, z] if up == "z" else [x, z, -y])
        distance = np.linalg.norm(cloud.positions - center_in_file, axis=1)
        assert np.abs(distance - scale * radius).max() < 1e-4 * scale * radius
        entry = side["placement"]
        assert entry["up"] == up and ("chosen" in entry["frame"]) == (chosen is not None)
        back = entry["file_to_training"]
        change = FrameChange(
            torch.tensor(back["rotation"]).double(), torch.tensor(back["translation"]).double(), back["scale"]
        )
        training = change.points(torch.from_numpy(cloud.positions).double())
        assert (training.norm(dim=1) - RADIUS).abs().max() < 1e-5
        source = entry["file_to_source"]
        assert source["scale"] == pytest.approx(back["scale"] / FRAME.scale)


def test_a_crop_box_cuts_and_reveals(tmp_path: Path) -> None:
    eye = torch.eye(3, dtype=torch.float64)
    crop = CropBox(torch.tensor([0.0, 0, 0.5], dtype=torch.float64), torch.ones(3, dtype=torch.float64), eye)
    cloud, _ = export(tmp_path, crop=crop)
    assert cloud.positions[:, 2].min() >= -1e-6 and len(cloud.positions) > 5000
    away = CropBox(torch.full((3,), 9.0, dtype=torch.float64), torch.ones(3, dtype=torch.float64), eye)
    with pytest.raises(UserError, match="no view shows a surface"):
        export(tmp_path / "x", crop=away)


class Littered(RayRenderer):
    """Every third view sees specks at a quarter of the way, which no other view confirms."""

    n = 0

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        frame = super().render(camera, cancel=cancel)
        self.n += 1
        depth = frame.depth.clone()
        if self.n % 3 == 0:
            depth[3::7, 3::7] = 0.4
        assert frame.alpha is not None
        return Frame(frame.rgb, depth, torch.where(depth.isfinite(), 1.0, frame.alpha))


def test_what_other_views_look_through_is_left_out(tmp_path: Path) -> None:
    littered, _ = export(tmp_path / "a", renderer=Littered(see), remove_outliers=False)
    clean, _ = export(tmp_path / "b", renderer=Littered(see))
    off = [np.mean(np.abs(np.linalg.norm(c.positions, axis=1) - RADIUS) > 0.02) for c in (littered, clean)]
    assert off[0] > 0.001 and off[1] == 0


def test_points_that_stand_alone_are_told() -> None:
    dense = torch.rand(2000, 3) * 0.5
    alone = torch.tensor([[3.0, 3.0, 3.0], [-5.0, 0.0, 0.0]])
    assert are_alone(torch.cat([dense, alone]), 0.1).tolist() == [False] * 2000 + [True] * 2


def test_a_method_without_opacity_gives_points_too(tmp_path: Path) -> None:
    cloud, _ = export(tmp_path, renderer=RayRenderer(opaque_ball))
    # Without opacity the empty sky has a depth of its own (0 here), and is nothing the views agree on.
    assert len(cloud.positions) > 1000


def test_the_choice_is_repeatable_and_requests_are_checked(tmp_path: Path) -> None:
    first, _ = export(tmp_path / "a", n_points=500, seed=3)
    again, _ = export(tmp_path / "b", n_points=500, seed=3)
    other, _ = export(tmp_path / "c", n_points=500, seed=4)
    assert (first.positions == again.positions).all() and not (first.positions == other.positions).all()
    with pytest.raises(UserError, match="the file exists"):
        export(tmp_path / "a")
    with pytest.raises(UserError, match="0 points"):
        export(tmp_path / "d", n_points=0)
    with pytest.raises(UserError, match="cannot write '.xyz' files"):
        export_points(RayRenderer(see), around(), tmp_path / "p.xyz", PointOptions(), PLAIN)
    with pytest.raises(UserError, match="scale of 0"):
        Placement.of(None, scale=0.0)
