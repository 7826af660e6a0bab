"""Laws of the lens models: each inverse undoes its forward model, wherever the forward model can be undone."""

from __future__ import annotations

import math

import pytest
import torch

from nerfstudio_ext.cameras import Camera, intrinsics_of
from nerfstudio_ext.lenses import LENS_KINDS, Lens, are_invertible, project_points, unproject_pixels

WIDTH, HEIGHT = 640, 480
LENSES = {
    "perspective": Lens(),
    "opencv mild": Lens("opencv", (0.058, -0.081, -0.001, 0.0002)),
    "opencv barrel": Lens("opencv", (-0.30, 0.11, 0.002, -0.003, -0.01)),
    "opencv pincushion": Lens("opencv", (0.30, 0.20, -0.002, 0.001, 0.02, 0.01)),
    "opencv tangential": Lens("opencv", (-0.2, 0.05, 0.01, 0.02)),
    "fisheye": Lens("fisheye", (0.05, -0.01, 0.002, -0.0002)),
    "fisheye strong": Lens("fisheye", (-0.04, 0.01, -0.003, 0.0004)),
    "equirectangular": Lens("equirectangular"),
}
TOLERANCE_PX = {torch.float64: 1e-9, torch.float32: 2e-3}
"""Rounding of coordinates of some 600 pixels (eps 2e-16, 1e-7), times the slope of the strongest lens."""


def camera_with(lens: Lens, c2w: torch.Tensor | None = None) -> Camera:
    focal = 190.0 if lens.kind == "fisheye" else 420.0
    K = torch.tensor([[focal, 0, 333.25], [0, focal * 1.04, 231.5], [0, 0, 1]], dtype=torch.float64)
    return Camera(WIDTH, HEIGHT, K, torch.eye(3, 4, dtype=torch.float64) if c2w is None else c2w, lens)


def random_pose(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    rotation = rotation * torch.linalg.det(rotation)
    return torch.cat([rotation, torch.randn(3, 1, dtype=torch.float64, generator=generator)], 1)


def pixels_with_corners(dtype: torch.dtype) -> torch.Tensor:
    corners = [[0.0, 0.0], [WIDTH, 0.0], [0.0, HEIGHT], [WIDTH, HEIGHT], [0.5, 0.5], [333.25, 231.5]]
    inside = torch.rand(500, 2, dtype=dtype) * torch.tensor([WIDTH, HEIGHT], dtype=dtype)
    return torch.cat([torch.tensor(corners, dtype=dtype), inside])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LENSES)
def test_projecting_the_ray_through_a_pixel_returns_the_pixel(name: str, dtype: torch.dtype) -> None:
    camera = camera_with(LENSES[name], random_pose(3))
    uv = pixels_with_corners(dtype)
    if LENSES[name].kind == "equirectangular":
        # On the seam and at the poles a direction has several pixels, and near the poles columns crowd together.
        uv = uv[6:] * torch.tensor([1.0, 0.9], dtype=dtype) + torch.tensor([0.0, 0.05 * HEIGHT], dtype=dtype)
    rays = camera.rays_through(uv)
    distance = torch.rand(len(uv), 1, dtype=dtype) * 3 + 0.5
    back, depth_z = camera.project(rays.rays_o + distance * rays.rays_d)
    assert rays.rays_d.dtype == dtype
    assert (back - uv).abs().max() < TOLERANCE_PX[dtype]
    if LENSES[name].kind in ("perspective", "opencv"):
        assert (depth_z > 0).all()


@pytest.mark.parametrize("name", LENSES)
def test_directions_have_unit_length_and_no_ray_is_lost(name: str) -> None:
    rays = camera_with(LENSES[name], random_pose(5)).resize(80, 61).rays()
    assert len(rays) == 80 * 61
    assert (rays.rays_d.norm(dim=-1) - 1).abs().max() < 1e-6
    assert (rays.t_min == 0).all() and torch.isinf(rays.t_max).all()


def test_a_point_behind_a_fisheye_camera_has_a_pixel() -> None:
    camera = camera_with(Lens("fisheye", (0.02,)))
    direction = torch.tensor([[1.0, 0.0, -0.2]], dtype=torch.float64)
    uv, depth_z = camera.project(direction)
    rays = camera.rays_through(uv)
    assert depth_z < 0
    assert torch.allclose(rays.rays_d, direction / direction.norm(), atol=1e-12)


def test_the_optical_axis_of_a_fisheye_is_not_singular() -> None:
    camera = camera_with(LENSES["fisheye"])
    centre = camera.K[None, :2, 2]
    for offset in (0.0, 1e-12, 1e-7, 1e-3):
        rays = camera.rays_through(centre + offset)
        uv, _ = camera.project(rays.rays_d * 2)
        assert torch.isfinite(rays.rays_d).all()
        assert (uv - centre - offset).abs().max() < 1e-9


def test_equirectangular_covers_the_sphere_with_known_directions() -> None:
    camera = camera_with(Lens("equirectangular"))
    quarter, half = WIDTH / 4, HEIGHT / 2
    uv = torch.tensor([[2 * quarter, half], [3 * quarter, half], [quarter, half], [2 * quarter, 0], [0.0, half]])
    expected = [[0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    assert torch.allclose(camera.rays_through(uv.double()).rays_d, torch.tensor(expected).double(), atol=1e-12)


def test_distortion_agrees_with_the_formula_of_opencv() -> None:
    k1, k2, p1, p2, k3 = 0.1, -0.05, 0.01, -0.02, 0.003
    x, y = 0.4, -0.3
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    expected = [
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    ]
    camera = camera_with(Lens("opencv", (k1, k2, p1, p2, k3)))
    uv, _ = camera.project(torch.tensor([[2 * x, 2 * y, 2.0]], dtype=torch.float64))
    fx, fy, cx, cy = intrinsics_of(camera).tolist()
    assert uv[0].tolist() == pytest.approx([fx * expected[0] + cx, fy * expected[1] + cy], abs=1e-10)


@pytest.mark.parametrize("lens", [Lens("opencv", (-0.35,)), Lens("fisheye", (-0.12,))], ids=lambda lens: lens.kind)
def test_pixels_beyond_the_peak_of_the_polynomial_are_told(lens: Lens) -> None:
    """A polynomial x - a x^3 peaks at x = 1 / sqrt(3 a): the height of the peak is the radius that can be reached."""
    a = -lens.params[0]
    peak = 2 / 3 / math.sqrt(3 * a)
    n = 400
    radius = torch.linspace(0, 2 * peak, n, dtype=torch.float64)
    angle = torch.rand(n, dtype=torch.float64) * 2 * math.pi
    uv = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    intrinsics = torch.tensor([[1e3, 1e3, 0.0, 0.0]], dtype=torch.float64).expand(n, -1)
    params = lens.tensor().expand(n, -1)
    size = torch.ones(n, 2, dtype=torch.float64)
    found = are_invertible(lens.kind, uv * 1e3, intrinsics, params, size)
    assert found[radius < 0.999 * peak].all()
    assert not found[radius > 1.001 * peak].any()
    assert torch.isfinite(unproject_pixels(lens.kind, uv * 1e3, intrinsics, params, size)).all()


@pytest.mark.parametrize("kind", LENS_KINDS)
def test_forward_models_take_any_batch_shape(kind: str) -> None:
    lens = next(lens for lens in LENSES.values() if lens.kind == kind)
    camera = camera_with(lens)
    local = torch.randn(2, 3, 3, dtype=torch.float64) + torch.tensor([0, 0, 4.0])
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    together = project_points(lens.kind, local, intrinsics_of(camera), lens.tensor(), size)
    apart = torch.stack([camera.project(row)[0] for row in local])
    assert torch.allclose(together, apart)
