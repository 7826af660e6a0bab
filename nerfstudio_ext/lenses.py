"""Lens models: pixels to directions in the camera frame and back.

Perspective and OPENCV follow the OpenCV camera model, fisheye its equidistant model with k1..k4.
The forward models are polynomials; the inverses are iterated to rounding, so that projecting a
pixel's own ray returns the pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LensKind = Literal["perspective", "opencv", "fisheye", "equirectangular"]
LENS_KINDS: tuple[LensKind, ...] = get_args(LensKind)
N_LENS_PARAMS = 6
NEWTON_STEPS = 12
"""Newton doubles the digits each step; wide lenses start far off, hence more than the usual 5."""

INVERSION_TOLERANCE_PX = 0.1
"""Where the inverse exists it is exact to 1e-3 pixels in float32; where not, it misses by many."""


@dataclass(frozen=True)
class Lens:
    """A lens model and its coefficients.

    Attributes:
        kind: `perspective` (no distortion), `opencv` (k1 k2 p1 p2 k3 k4, where k3 and k4 continue the
            radial polynomial), `fisheye` (equidistant, k1 k2 k3 k4) or `equirectangular` (360 x 180 degrees).
        params: The coefficients in that order; missing ones are 0.
    """

    kind: LensKind = "perspective"
    params: tuple[float, ...] = ()

    def tensor(self) -> Float[Tensor, "6"]:
        """The coefficients as float64, padded with zeros."""
        padded = (*self.params, *([0.0] * (N_LENS_PARAMS - len(self.params))))
        return torch.tensor(padded, dtype=torch.float64)


def project_points(
    kind: LensKind,
    local: Float[Tensor, "N 3"],
    intrinsics: Float[Tensor, "*N 4"],
    params: Float[Tensor, "*N 6"],
    size: Float[Tensor, "*N 2"],
) -> Float[Tensor, "N 2"]:
    """Pixel positions of points given in camera axes; see `Camera.project` for points behind."""
    if kind == "equirectangular":
        return _project_equirectangular(local, size)
    if kind == "fisheye":
        radius = local[..., :2].norm(dim=-1)
        theta = torch.atan2(radius, local[..., 2])
        factor = _fisheye_angle(theta, params)[0] / radius.clamp_min(1e-12)
        # On the axis angle / radius tends to 1 / z.
        factor = torch.where(radius > 1e-9 * local[..., 2].abs(), factor, 1 / local[..., 2])
        xy = local[..., :2] * factor[..., None]
    else:
        xy = local[..., :2] / local[..., 2:]
        if kind == "opencv":
            xy = _distort(xy, params)[0]
    return xy * intrinsics[..., :2] + intrinsics[..., 2:]


def unproject_pixels(
    kind: LensKind,
    uv: Float[Tensor, "N 2"],
    intrinsics: Float[Tensor, "N 4"],
    params: Float[Tensor, "N 6"],
    size: Float[Tensor, "N 2"],
) -> Float[Tensor, "N 3"]:
    """Directions in camera axes through pixel positions, not normalised."""
    if kind == "equirectangular":
        longitude = (uv[..., 0] / size[..., 0] - 0.5) * (2 * math.pi)
        latitude = (uv[..., 1] / size[..., 1] - 0.5) * math.pi
        horizontal = latitude.cos()
        return torch.stack([horizontal * longitude.sin(), latitude.sin(), horizontal * longitude.cos()], -1)
    xy = (uv - intrinsics[..., 2:]) / intrinsics[..., :2]
    if kind == "fisheye":
        return _unproject_fisheye(xy, params)
    if kind == "opencv":
        xy = _undistort(xy, params)
    return torch.cat([xy, torch.ones_like(xy[..., :1])], -1)


def are_invertible(
    kind: LensKind,
    uv: Float[Tensor, "N 2"],
    intrinsics: Float[Tensor, "N 4"],
    params: Float[Tensor, "N 6"],
    size: Float[Tensor, "N 2"],
) -> Bool[Tensor, " N"]:
    """Whether the lens model has a direction for each pixel.

    A distortion polynomial rises, and may fall again outside the part of the picture it was fitted to: no direction
    reaches the pixels beyond its peak, and what `unproject_pixels` returns there means nothing.
    """
    if kind in ("perspective", "equirectangular"):
        return torch.ones(len(uv), dtype=torch.bool, device=uv.device)
    local = unproject_pixels(kind, uv, intrinsics, params, size)
    error = (project_points(kind, local, intrinsics, params, size) - uv).norm(dim=-1)
    if kind == "fisheye":
        theta = torch.atan2(local[..., :2].norm(dim=-1), local[..., 2])
        is_rising = _fisheye_angle(theta, params)[1] > 0
    else:
        a, b, c, d = _distort(local[..., :2], params)[1].unbind(-1)
        straight = uv - intrinsics[..., 2:]
        is_rising = (a * d - b * c > 0) & ((local[..., :2] * straight).sum(-1) >= 0)
    return is_rising & (error < INVERSION_TOLERANCE_PX)


def _project_equirectangular(local: Tensor, size: Tensor) -> Tensor:
    longitude = torch.atan2(local[..., 0], local[..., 2])
    latitude = torch.atan2(local[..., 1], local[..., [0, 2]].norm(dim=-1))
    return torch.stack(
        [(longitude / (2 * math.pi) + 0.5) * size[..., 0], (latitude / math.pi + 0.5) * size[..., 1]], -1
    )


def _distort(xy: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """OPENCV distortion of normalised coordinates and its 2x2 Jacobian."""
    k1, k2, p1, p2, k3, k4 = params.unbind(-1)
    x, y = xy.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    slope = 2 * (k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * 4 * k4)))
    xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    yd = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    dxx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    dxy = slope * x * y + 2 * p1 * x + 2 * p2 * y
    dyy = radial + slope * y * y + 2 * p2 * x + 6 * p1 * y
    return torch.stack([xd, yd], -1), torch.stack([dxx, dxy, dxy, dyy], -1)


def _undistort(xy: Tensor, params: Tensor) -> Tensor:
    """Invert `_distort` by Newton's method."""
    guess = xy.clone()
    for _ in range(NEWTON_STEPS):
        distorted, jacobian = _distort(guess, params)
        error = distorted - xy
        a, b, c, d = jacobian.unbind(-1)
        det = a * d - b * c
        # A lens polynomial can fold over far outside the picture; do not step across the fold.
        det = torch.where(det.abs() < 1e-6, torch.full_like(det, 1e-6), det)
        step = torch.stack([d * error[..., 0] - b * error[..., 1], a * error[..., 1] - c * error[..., 0]], -1)
        guess = guess - step / det[..., None]
        if error.abs().amax() < 4 * torch.finfo(xy.dtype).eps:
            break
    return guess


def _fisheye_angle(theta: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Distorted angle and its derivative."""
    k1, k2, k3, k4 = params[..., :4].unbind(-1)
    t2 = theta * theta
    angle = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
    return angle, slope


def _unproject_fisheye(xy: Tensor, params: Tensor) -> Tensor:
    distorted = xy.norm(dim=-1)
    theta = distorted.clone()
    for _ in range(NEWTON_STEPS):
        angle, slope = _fisheye_angle(theta, params)
        slope = torch.where(slope.abs() < 1e-6, torch.full_like(slope, 1e-6), slope)
        theta = (theta - (angle - distorted) / slope).clamp(0, math.pi)
    # sin(theta) / distorted tends to 1 on the axis.
    factor = torch.where(distorted > 1e-9, theta.sin() / distorted.clamp_min(1e-12), torch.ones_like(theta))
    return torch.cat([xy * factor[..., None], theta.cos()[..., None]], -1)
