"""Pictures of a trained scene from many cameras, kept so that colours can be added again and again.

A scene is rendered once; what colours on its surfaces need is the unmarked colour and where each ray ends. Everything
that is learned afterwards costs a table lookup per pixel, not a rendering.
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
from ...methods.marked import SurfaceColors, surface_points
from ...methods.protocol import Method
from ...progress import Progress
from ...renderer import EMPTY_ALPHA

_RENDER_CHUNK = 16384
_POINT_CHUNK = 65536
"""Rays that are looked up at once: bounds the memory of the backward pass, as deferred back-propagation does."""
_SHARE, _NEIGHBOURS = 8, (3, 10)
"""Of how many neighbours two are drawn: one in eight of all. With fewer, gaps between the cameras are not reached; with
more, cameras that stand all around an object meet inside it."""
_BEYOND = 0.6
"""How far beyond the triangle of three cameras views may lie, as a share of its size."""
_ROLL_DEGREES = 5.0
_POINTS_OF_VIEW = 4
"""Surface points of each view that say how far apart cameras are."""
_POOL = 10
"""Cameras to choose from, for each that is chosen."""


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
        turn: [3,3] rotation of all directions of view, None for none; see `from_beside`.
    """

    camera: Camera
    rgb: Tensor
    alpha: Tensor
    seen: Int64[Tensor, " P"]
    depth: Float[Tensor, " P"]
    is_photo: bool = False
    turn: Tensor | None = None

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
        return x, rays.rays_d if self.turn is None else rays.rays_d @ self.turn.T, alpha

    def from_beside(self, radians: float, generator: torch.Generator) -> SceneView:
        """The same view, with colours on its surfaces as from a camera a little beside, in a random direction.

        What the scene shows from there is next to the same; what colours that depend on direction show is not. Every
        look at the few hundred views there is time to render then stands for its neighbourhood.
        """
        axis = radians * torch.randn(3, generator=generator)
        generators = torch.zeros(3, 3)
        generators[[2, 0, 1], [1, 2, 0]] = axis
        return dataclasses.replace(self, turn=torch.linalg.matrix_exp(generators - generators.T))

    def chunks(self) -> Iterator[slice]:
        """The seen pixels in pieces."""
        for start in range(0, len(self.seen), _POINT_CHUNK):
            yield slice(start, start + _POINT_CHUNK)

    def unmarked(self, background: Float[Tensor, "3"]) -> Float[Tensor, "H W 3"]:
        """The picture as the method renders it, before rounding."""
        rgb = self.rgb.float() + (1 - self.alpha.float())[:, None] * background
        return rgb.reshape(self.camera.height, self.camera.width, 3)

    @torch.no_grad()
    def difference(self, colors: SurfaceColors) -> Float[Tensor, "H W 3"]:
        """What colours on surfaces add to the picture."""
        added = torch.zeros(self.n_pixels, 3)
        for part in self.chunks():
            x, d, alpha = self.points(part)
            added[self.seen[part]] = colors(x, d) * alpha[:, None]
        return added.reshape(self.camera.height, self.camera.width, 3)

    def pull_back(self, colors: SurfaceColors, gradient: Float[Tensor, "H W 3"]) -> None:
        """Add the gradient of the pixels to that of the colours' parameters.

        The pixels are looked up once more, piece by piece, with gradients this time: the graph through extractor and
        attacks and the one through the table never exist together (deferred back-propagation).
        """
        flat = gradient.reshape(-1, 3)
        for part in self.chunks():
            x, d, alpha = self.points(part)
            colors(x, d).backward(flat[self.seen[part]] * alpha[:, None])


def render_view(method: Method, camera: Camera, *, is_photo: bool = False) -> SceneView:
    """Render a method once and keep what colours on surfaces need."""
    rays = camera.rays()
    with torch.no_grad():
        parts = [method.render_rays(rays[s : s + _RENDER_CHUNK]) for s in range(0, len(rays), _RENDER_CHUNK)]
    rgb, depth = torch.cat([p.rgb for p in parts]), torch.cat([p.depth for p in parts])
    alphas = [p.alpha for p in parts if p.alpha is not None]
    alpha = torch.cat(alphas) if alphas else torch.ones_like(depth)
    seen = (alpha > EMPTY_ALPHA).nonzero()[:, 0]
    return SceneView(camera, rgb.half(), alpha.half(), seen, depth[seen] / alpha[seen], is_photo)


def render_views(
    method: Method, photos: Cameras, n_between: int, generator: torch.Generator, progress: Progress
) -> list[SceneView]:
    """Views from the cameras of photos, and from others that fill the holes between them."""
    progress.stage("rendering the scene from all sides", len(photos) + n_between)
    views = []
    for camera in photos:
        views.append(render_view(method, camera, is_photo=True))
        progress.advance(len(views))
    if n_between and any(len(view.seen) for view in views):
        for camera in cameras_that_fill(views, n_between, generator):
            views.append(render_view(method, camera))
            progress.advance(len(views))
    return views


def fit_size(camera: Camera, longest: int) -> Camera:
    """The same view with a longer side of at most so many pixels."""
    factor = min(1.0, longest / max(camera.width, camera.height))
    return camera.resize(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def cameras_between(cameras: Cameras, count: int, generator: torch.Generator) -> Cameras:
    """Cameras at random places amid neighbouring ones of a capture and a little beyond, a little rolled.

    What is learned from them holds where nobody stood, as long as others stood around it.
    """
    centres = cameras.c2w[:, :, 3]
    reach = min(max(len(cameras) // _SHARE, _NEIGHBOURS[0]), _NEIGHBOURS[1])
    made = []
    for _ in range(count):
        first = int(torch.randint(len(cameras), (1,), generator=generator))
        near = (centres - centres[first]).norm(dim=1).argsort()[1 : 1 + reach]
        near = near[torch.randperm(len(near), generator=generator)[:2]]
        *draw, roll = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        shares = -torch.tensor(draw, dtype=torch.float64).log()
        shares = (1 + _BEYOND) * shares / shares.sum() - _BEYOND / 3  # evenly within a triangle, and around it
        corners = torch.stack([cameras[i].c2w for i in [first, *near.tolist()]])
        mixed = (shares[: len(corners), None, None] * corners).sum(0) / shares[: len(corners)].sum()
        made.append(_turned(cameras[first], mixed if len(corners) == 3 else corners[0], roll))
    return Cameras(made)


def cameras_that_fill(views: Sequence[SceneView], count: int, generator: torch.Generator) -> Cameras:
    """Cameras amid those of some views, each where the largest hole is left (farthest-point sampling).

    How far apart two cameras are is the angle between the directions in which they see surfaces. Drawn at random, as
    many cameras leave holes twice as wide, and a mark is not read where nothing looked.
    """
    cameras = Cameras([view.camera for view in views])
    pool = cameras_between(cameras, _POOL * count, generator)
    surface = torch.cat([view.points(_few(len(view.seen), generator))[0] for view in views if len(view.seen)])
    places = _directions(pool, surface)
    hole = torch.cdist(places, _directions(cameras, surface)).amin(1)
    chosen = []
    for _ in range(count):
        chosen.append(int(hole.argmax()))
        hole = torch.minimum(hole, (places - places[chosen[-1]]).norm(dim=1))
    return pool.select(chosen)


def _few(n: int, generator: torch.Generator) -> Int64[Tensor, " Q"]:
    return torch.randint(n, (_POINTS_OF_VIEW,), generator=generator)


def _directions(cameras: Cameras, points: Float[Tensor, "Q 3"]) -> Float[Tensor, "N 3*Q"]:
    """From points to cameras; distances of rows are root mean squares of those of the unit directions."""
    away = cameras.c2w[:, None, :, 3].float() - points
    return (away / away.norm(dim=2, keepdim=True).clamp_min(1e-9)).flatten(1) / math.sqrt(len(points))


def _turned(like: Camera, c2w: Float[Tensor, "3 4"], roll: float) -> Camera:
    """A camera like another at about a pose that need not be one, rolled by up to a few degrees."""
    u, _, v = torch.linalg.svd(c2w[:, :3])
    rotation = u @ v
    if torch.linalg.det(rotation) < 0:  # opposite directions of view have no middle
        rotation = like.c2w[:, :3]
    angle = math.radians(_ROLL_DEGREES * (2 * roll - 1))
    about = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]], dtype=torch.float64
    )
    return dataclasses.replace(like, c2w=torch.cat([rotation @ about, c2w[:, 3:]], 1))


def pixel_size(views: Sequence[SceneView]) -> float:
    """Median width of a pixel where it meets the scene, scene units."""
    widths = [
        float(view.depth.median()) / math.sqrt(float(view.camera.K[0, 0] * view.camera.K[1, 1]))
        for view in views
        if len(view.seen)
    ]
    return sorted(widths)[len(widths) // 2] if widths else 1.0
