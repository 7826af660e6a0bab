"""The occupancy grid keeps what is there and drops what is not."""

from __future__ import annotations

import math

import pytest
import torch

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.fields.occupancy import REFRESH_EVERY, REFRESH_FROM, SWEEP_STEPS, OccupancyGrid
from nerfstudio_ext.kernels import unpack_bits

STEP = 1 / 256


def ball(radius: float, density: float = 100.0):
    return lambda x: density * (x.norm(dim=-1) < radius).float()


def centres(grid: OccupancyGrid, cascade: int) -> torch.Tensor:
    axis = (torch.arange(grid.grid_size) + 0.5) / grid.grid_size - 0.5
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1) * 2**cascade


def flags(grid: OccupancyGrid) -> torch.Tensor:
    return unpack_bits(grid.bits, grid.grid_size)


def test_a_sweep_finds_a_ball_and_nothing_else():
    grid = OccupancyGrid(1, 64, STEP)
    assert grid.share == 1.0
    assert grid.update(min(SWEEP_STEPS), ball(0.25), torch.Generator().manual_seed(0))
    distance = centres(grid, 0).norm(dim=-1)
    assert flags(grid)[0][distance < 0.25 - 4 / 64].all()
    assert not flags(grid)[0][distance > 0.25 + 4 / 64].any()
    assert grid.share == pytest.approx(4 / 3 * math.pi * 0.25**3, rel=0.1)


def test_refreshes_let_go_of_what_vanished_and_find_what_appeared():
    grid, generator = OccupancyGrid(1, 32, STEP), torch.Generator().manual_seed(0)
    grid.update(min(SWEEP_STEPS), ball(0.3), generator)
    for k in range(240):
        grid.update(REFRESH_FROM + k * REFRESH_EVERY, ball(0.15), generator)
    distance = centres(grid, 0).norm(dim=-1)
    assert flags(grid)[0][distance < 0.15 - 2 / 32].float().mean() > 0.99
    assert not flags(grid)[0][distance > 0.15 + 2 / 32].any()


def test_nothing_happens_between_refreshes():
    grid = OccupancyGrid(1, 16, STEP)
    before = grid.bits.clone()
    assert not grid.update(REFRESH_FROM + 1, ball(0.1), torch.Generator())
    assert torch.equal(grid.bits, before)


def test_an_outer_cascade_leaves_the_inner_cube_to_the_inner_one():
    grid = OccupancyGrid(3, 32, STEP)
    grid.update(min(SWEEP_STEPS), lambda x: torch.full((len(x),), 50.0), torch.Generator().manual_seed(0))
    for cascade in (1, 2):
        is_inner = (centres(grid, cascade).abs() < 2**cascade / 4).all(-1)
        assert not flags(grid)[cascade][is_inner].any()
        assert flags(grid)[cascade][~is_inner].all()


def test_what_no_camera_sees_is_empty_for_good():
    c2w = torch.eye(4, dtype=torch.float64)[:3].clone()
    c2w[2, 3] = -1.5  # looks along +z, past the whole cube
    camera = Camera.perspective(64, 64, 20.0, c2w)
    grid = OccupancyGrid(1, 32, STEP)
    grid.restrict_to_views(Cameras([camera]), near=0.05)
    uv, depth = camera.project(centres(grid, 0).reshape(-1, 3))
    in_view = ((uv > 0) & (uv < 64)).all(-1) & (depth > 0)
    seen = flags(grid)[0].flatten()
    assert seen[in_view].all()
    assert seen.float().mean() < 2.5 * in_view.float().mean()
    grid.update(min(SWEEP_STEPS), lambda x: torch.full((len(x),), 50.0), torch.Generator().manual_seed(0))
    assert torch.equal(flags(grid)[0].flatten(), seen)


def test_a_loaded_grid_keeps_what_cannot_be_reached_empty():
    narrow = OccupancyGrid(1, 16, STEP)
    narrow.reachable[: 8 * 16 * 16] = False
    loaded = OccupancyGrid(1, 16, STEP)
    loaded.load_state_dict(narrow.state_dict())
    loaded.update(min(SWEEP_STEPS), lambda x: torch.full((len(x),), 50.0), torch.Generator().manual_seed(0))
    assert torch.equal(flags(loaded).flatten(), narrow.reachable)
