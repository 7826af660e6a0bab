"""Computed captures: the picture, the camera and the distance of every pixel belong together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.worlds.captures import VALIDATION_SEEDS, make_capture
from nerfstudio_ext.worlds.compose import SCALES, compose, random_turn
from nerfstudio_ext.worlds.rigs import RIGS_AROUND, RIGS_WITHIN, place_cameras
from nerfstudio_ext.worlds.tracing import BOX, CONE, CYLINDER, SPHERE, Solids, World, photograph


def world_of(kind: int, size: tuple[float, float, float], turn: np.ndarray, centre: np.ndarray) -> World:
    one = np.ones((1, 3))
    solids = Solids(
        np.array([kind]), centre[None], turn[None], np.array([size]), np.zeros(1, int), np.ones(1), one, np.zeros(1)
    )
    textures = np.full((1, 4, 4, 3), 0.5)
    return World(solids, textures, np.array([[0, 0, 50.0, 0.4, 0.4, 0.4]]), np.full(3, 0.3), np.array([0.0, 0, 1]), 1)


def camera_at(place: np.ndarray, side: int = 24) -> Camera:
    forward = -place / np.linalg.norm(place)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    c2w = np.column_stack([right, np.cross(forward, right), forward, place])
    return Camera.perspective(side, side, 40.0, torch.from_numpy(c2w))


def on_surface(kind: int, q: np.ndarray) -> np.ndarray:
    """How far local points lie from the surface of the unit solid, in the measure of its own equation."""
    radial = np.hypot(q[:, 0], q[:, 1])
    if kind == SPHERE:
        return np.abs(np.linalg.norm(q, axis=1) - 1)
    if kind == BOX:
        return np.abs(np.abs(q).max(1) - 1)
    side = np.abs(radial - (1 if kind == CYLINDER else 0.5 * (1 - q[:, 2])))
    inside = radial <= (1 if kind == CYLINDER else 0.5 * (1 - q[:, 2])) + 1e-6
    cap = np.where(inside, np.abs(np.abs(q[:, 2]) - 1), 1.0)
    return np.minimum(side, cap)


@pytest.mark.parametrize("kind", [SPHERE, BOX, CYLINDER, CONE])
def test_every_distance_ends_on_the_surface(kind: int):
    rng = np.random.default_rng(kind)
    turn, size, centre = random_turn(rng), (0.3, 0.2, 0.4), np.array([0.1, -0.05, 0.08])
    camera = camera_at(np.array([1.2, -0.7, 0.6]))
    picture, depth = photograph(world_of(kind, size, turn, centre), camera, 1)
    rays = camera.rays()
    t = torch.from_numpy(depth).flatten().float()
    hit = t.isfinite()
    assert 30 < int(hit.sum()) < len(t) - 30
    points = (rays.rays_o[hit] + t[hit, None] * rays.rays_d[hit]).double().numpy()
    local = ((points - centre) @ turn.T) / np.array(size)
    assert on_surface(kind, local).max() < 1e-4
    missed = torch.from_numpy(picture).reshape(-1, 3)[~hit]
    assert torch.equal(missed, torch.tensor([[0.0, 0, 1]], dtype=missed.dtype).expand_as(missed))


def test_nothing_nearer_is_overlooked():
    """A ball seen along its axis: the distance is the distance of the centre minus the radius."""
    world = world_of(SPHERE, (0.25, 0.25, 0.25), np.eye(3), np.zeros(3))
    camera = camera_at(np.array([0.0, -2.0, 0.0]), 25)
    _, depth = photograph(world, camera, 1)
    assert depth[12, 12] == pytest.approx(1.75, abs=1e-9)


def test_light_falls_from_the_lamp_and_shadows_behind():
    ball = world_of(SPHERE, (0.3, 0.3, 0.3), np.eye(3), np.zeros(3))
    picture, depth = photograph(ball, camera_at(np.array([0.0, -2.0, 0.0]), 41), 1)
    lit = np.isfinite(depth)
    top, bottom = picture[:14][lit[:14]].mean(), picture[-14:][lit[-14:]].mean()
    assert top > 1.5 * bottom
    assert bottom == pytest.approx(0.5 * 0.3, rel=0.05), "the dark side has the ambient light alone"


@pytest.mark.parametrize("scale", SCALES)
def test_the_main_thing_is_in_the_middle_and_all_fits_the_box(scale: str):
    for seed in range(6):
        world = compose(seed, scale)
        reach = np.abs(world.solids.centres).max() + 0
        assert reach < 0.55 * world.aabb_scale
        near = np.linalg.norm(world.solids.centres, axis=1) < 0.6
        assert near.sum() >= 2
        assert (world.solids.sizes > 0).all()


def test_a_seed_is_a_capture_and_another_one_another():
    a, b = make_capture(3, n_views=2, side=24), make_capture(3, n_views=2, side=24)
    assert all((a.images.pixels(i) == b.images.pixels(i)).all() for i in range(2))
    others = [make_capture(seed, n_views=1, side=24) for seed in range(8)] + [
        make_capture(VALIDATION_SEEDS + i, n_views=1, side=24) for i in range(2)
    ]
    assert len({capture.images.pixels(0).tobytes() for capture in others}) == 10


@pytest.mark.parametrize("rig", sorted({*RIGS_AROUND, *RIGS_WITHIN}))
def test_cameras_look_at_the_middle(rig: str):
    cameras = place_cameras(np.random.default_rng(1), rig, 16, 64, 48, 1.3, 50.0)
    assert len(cameras) == 16
    for camera in cameras:
        rotation = camera.c2w[:, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert float(torch.linalg.det(rotation)) == pytest.approx(1)
        uv, depth = camera.project(torch.zeros(1, 3, dtype=torch.float64))
        assert float(depth) > 0
        assert math.hypot(float(uv[0, 0]) - 32, float(uv[0, 1]) - 24) < 40
    assert float((cameras.c2w[:, :, 3].norm(dim=-1) - 1.3).abs().mean()) < 0.4
