"""Pictures of a trained scene from many cameras, kept so that a colour residual can be added again and again.

A scene is rendered once; what a residual needs of it is the unmarked colour and where each ray ends. Everything that
is learned afterwards costs a table lookup per pixel, not a rendering.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...cameras import Camera, Cameras
from ...fields.color_residual import ColorResidual
from ...methods.marked import surface_points
from ...methods.protocol import Method
from ...progress import Progress
from ...renderer import EMPTY_ALPHA

_RENDER_CHUNK = 16384
_POINT_CHUNK = 65536
"""Rays that are looked up at once: bounds the memory of the backward pass, as deferred back-propagation does."""
_NEIGHBOURS = 5
_ROLL_DEGREES = 5.0


@dataclass(frozen=True)
class SceneView:
    """One unmarked picture with what lies behind its pixels.

    Attributes:
        camera: In the training frame.
        rgb: [H*W,3] float16, premultiplied with the opacity.
        alpha: [H*W] float16 opacity.
        seen: [P] pixels whose ray meets something.
        depth: [P] their ray lengths, scene units.
        is_photo: Whether the camera is one of the capture's.
    """

    camera: Camera
    rgb: Tensor
    alpha: Tensor
    seen: Int64[Tensor, " P"]
    depth: Float[Tensor, " P"]
    is_photo: bool = False

    @property
    def n_pixels(self) -> int:
        return self.camera.width * self.camera.height

    def box(self, margin: int) -> tuple[slice, slice]:
        """Rows and columns of the smallest part of the picture that shows everything seen, and a margin around it."""
        if len(self.seen) == 0:
            return slice(0, self.camera.height), slice(0, self.camera.width)
        rows, columns = self.seen // self.camera.width, self.seen % self.camera.width
        return (
            slice(max(0, int(rows.min()) - margin), int(rows.max()) + 1 + margin),
            slice(max(0, int(columns.min()) - margin), int(columns.max()) + 1 + margin),
        )

    def points(self, choice: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """Surface points [Q,3], directions [Q,3] and opacities [Q] of some of the seen pixels."""
        pixels = self.seen[choice]
        width = self.camera.width
        rays = self.camera.rays_through(torch.stack([pixels % width, pixels // width], 1).float() + 0.5)
        alpha = self.alpha[pixels].float()
        x = surface_points(rays.rays_o, rays.rays_d, self.depth[choice] * alpha, alpha)
        return x, rays.rays_d, alpha

    def chunks(self) -> Iterator[slice]:
        """The seen pixels in pieces."""
        for start in range(0, len(self.seen), _POINT_CHUNK):
            yield slice(start, start + _POINT_CHUNK)

    def unmarked(self, background: Float[Tensor, "3"]) -> Float[Tensor, "H W 3"]:
        """The picture as the method renders it, before rounding."""
        rgb = self.rgb.float() + (1 - self.alpha.float())[:, None] * background
        return rgb.reshape(self.camera.height, self.camera.width, 3)

    @torch.no_grad()
    def difference(self, residual: ColorResidual) -> Float[Tensor, "H W 3"]:
        """What the residual adds to the picture."""
        added = torch.zeros(self.n_pixels, 3)
        for part in self.chunks():
            x, d, alpha = self.points(part)
            added[self.seen[part]] = residual(x, d) * alpha[:, None]
        return added.reshape(self.camera.height, self.camera.width, 3)

    def pull_back(self, residual: ColorResidual, gradient: Float[Tensor, "H W 3"]) -> None:
        """Add the gradient of the pixels to the gradient of the residual's table.

        The pixels are looked up once more, piece by piece, with gradients this time: the graph through extractor and
        attacks and the one through the table never exist together (deferred back-propagation).
        """
        flat = gradient.reshape(-1, 3)
        for part in self.chunks():
            x, d, alpha = self.points(part)
            residual(x, d).backward(flat[self.seen[part]] * alpha[:, None])


def render_view(method: Method, camera: Camera, *, is_photo: bool = False) -> SceneView:
    """Render a method once and keep what a residual needs."""
    rays = camera.rays()
    with torch.no_grad():
        parts = [method.render_rays(rays[s : s + _RENDER_CHUNK]) for s in range(0, len(rays), _RENDER_CHUNK)]
    rgb, depth = torch.cat([p.rgb for p in parts]), torch.cat([p.depth for p in parts])
    alphas = [p.alpha for p in parts if p.alpha is not None]
    alpha = torch.cat(alphas) if alphas else torch.ones_like(depth)
    seen = (alpha > EMPTY_ALPHA).nonzero()[:, 0]
    return SceneView(camera, rgb.half(), alpha.half(), seen, depth[seen] / alpha[seen], is_photo)


def render_views(method: Method, photos: Cameras, between: Cameras, progress: Progress) -> list[SceneView]:
    """Views from the cameras of photos, and from others."""
    progress.stage("rendering the scene from all sides", len(photos) + len(between))
    views = []
    for camera in photos:
        views.append(render_view(method, camera, is_photo=True))
        progress.advance(len(views))
    for camera in between:
        views.append(render_view(method, camera))
        progress.advance(len(views))
    return views


def fit_size(camera: Camera, longest: int) -> Camera:
    """The same view with a longer side of at most so many pixels."""
    factor = min(1.0, longest / max(camera.width, camera.height))
    return camera.resize(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def cameras_between(cameras: Cameras, count: int, generator: torch.Generator) -> Cameras:
    """Cameras at random places between neighbouring ones of a capture, a little rolled.

    What is learned from them holds where nobody stood, as long as others stood around it.
    """
    centres = cameras.c2w[:, :, 3]
    made = []
    for _ in range(count):
        first = int(torch.randint(len(cameras), (1,), generator=generator))
        near = (centres - centres[first]).norm(dim=1).argsort()[1 : _NEIGHBOURS + 1]
        share, roll = torch.rand(2, generator=generator).tolist()
        if len(near) == 0:
            made.append(_turned(cameras[first], cameras[first], 0.0, roll))
            continue
        second = int(near[int(torch.randint(len(near), (1,), generator=generator))])
        made.append(_turned(cameras[first], cameras[second], share, roll))
    return Cameras(made)


def _turned(first: Camera, second: Camera, share: float, roll: float) -> Camera:
    """`first`, moved and turned by a share of the way to `second`, rolled by up to a few degrees."""
    mixed = (1 - share) * first.c2w + share * second.c2w
    u, _, v = torch.linalg.svd(mixed[:, :3])
    rotation = u @ v
    if torch.linalg.det(rotation) < 0:  # opposite directions of view have no middle
        rotation = first.c2w[:, :3]
    angle = math.radians(_ROLL_DEGREES * (2 * roll - 1))
    about = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]], dtype=torch.float64
    )
    return dataclasses.replace(first, c2w=torch.cat([rotation @ about, mixed[:, 3:]], 1))


def pixel_size(views: Sequence[SceneView]) -> float:
    """Median width of a pixel where it meets the scene, scene units."""
    widths = [
        float(view.depth.median()) / math.sqrt(float(view.camera.K[0, 0] * view.camera.K[1, 1]))
        for view in views
        if len(view.seen)
    ]
    return sorted(widths)[len(widths) // 2] if widths else 1.0
