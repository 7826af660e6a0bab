"""The one window through which the viewer and the exporters see a scene: a camera goes in, a frame comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .camera_paths.path import CropBox
from .cameras import Camera
from .errors import UserError
from .kernels.hints import picture
from .memory import HALVINGS, is_out_of_memory, release_memory
from .rays import RayOutputs, Rays

logger = logging.getLogger(__name__)
RenderRays = Callable[[Rays], RayOutputs]
_Function = TypeVar("_Function", bound=Callable[..., object])
DEFAULT_CHUNK = 4096
"""Rays per call, where the function does not say what suits it."""
EMPTY_ALPHA = 0.05
"""Below this opacity a pixel has no depth: it shows background."""


class Cancelled(Exception):
    """Raised inside `Renderer.render` when its cancel token was set; the frame is not finished."""


class CancelToken:
    """A flag that one thread sets and a running render checks between chunks."""

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Ask the render that holds this token to stop."""
        self._is_set = True
        for callback in self._callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this from the thread that cancels; look at `is_cancelled` afterwards, it may have happened before."""
        self._callbacks.append(callback)

    @property
    def is_cancelled(self) -> bool:
        return self._is_set

    def check(self) -> None:
        """Raise `Cancelled` if the token was set."""
        if self._is_set:
            raise Cancelled


@dataclass(frozen=True)
class Frame:
    """One rendered picture, on the CPU, float32.

    Attributes:
        rgb: Colours 0..1 with the background added.
        depth: Ray length in scene units, `inf` where the ray sees nothing.
        alpha: Opacity 0..1, or None where the method has none.
        version: Version of the weights it was rendered from; grows while training goes on.
    """

    rgb: Float[Tensor, "H W 3"]
    depth: Float[Tensor, "H W"]
    alpha: Float[Tensor, "H W"] | None
    version: int = 0


class Renderer(Protocol):
    """Renders cameras given in the training frame of a scene."""

    background: tuple[float, float, float]

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Render one picture; raises `Cancelled` when the token is set meanwhile."""


def rays_at_a_time(n: int, *, cuda: int | None = None) -> Callable[[_Function], _Function]:
    """Mark a function from rays to outputs with the number of rays per call that suits it, `cuda` on such a device."""

    def mark(function: _Function) -> _Function:
        # Functions have no such attributes for type checkers.
        setattr(function, "rays_at_a_time", n)  # noqa: B010
        setattr(function, "cuda_rays_at_a_time", cuda or n)  # noqa: B010
        return function

    return mark


@runtime_checkable
class CanCrop(Protocol):
    """A renderer that can leave out everything outside a box."""

    def cropped(self, box: CropBox) -> Renderer:
        """The same scene inside the box only, on the box's background colour."""


@runtime_checkable
class HasDensity(Protocol):
    """What mesh export needs beyond a `Renderer`."""

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density per scene unit at world positions."""


RayLayer = Callable[[Rays], Tensor]
"""From R rays to one number each, [R]: what a method can show beside its pictures."""


@runtime_checkable
class HasLayers(Protocol):
    """A renderer, or a method, that can show numbers along its rays: what they cost, what they meet."""

    def layers(self) -> Mapping[str, RayLayer]:
        """The layers by name; they stay valid while training goes on."""


@runtime_checkable
class HasBackdrop(Protocol):
    """A renderer that can put another colour behind the scene."""

    def on_background(self, background: tuple[float, float, float]) -> Renderer:
        """The same scene before another colour, 0..1."""


@runtime_checkable
class HasDraft(Protocol):
    """A method, or a snapshot of one, that can evaluate rays faster and less well, for pictures of a moving camera."""

    def draft(self, rays: Rays) -> RayOutputs:
        """As `render_rays`, in much less time."""


class RayRenderer:
    """A `Renderer` over any function from rays to outputs, in chunks, cancellable between chunks.

    Args:
        render_rays: The method's evaluation function; no gradients are kept.
        background: Colour behind the scene, 0..1.
        chunk: Rays per call; about 10 ms of work keeps a viewer responsive. None takes what `rays_at_a_time` says.
        version: Version of the weights behind `render_rays`.
        device: Where the rays go.
        layers: What else can be shown, by name.
        draft: A faster and less exact `render_rays`, if there is one.
    """

    def __init__(
        self,
        render_rays: RenderRays,
        background: tuple[float, float, float] = (1.0, 1.0, 1.0),
        chunk: int | None = None,
        version: int = 0,
        device: torch.device | str = "cpu",
        layers: Mapping[str, RayLayer] | None = None,
        draft: RenderRays | None = None,
    ) -> None:
        self.render_rays = render_rays
        self.draft = draft
        self.background = background
        self.version = version
        self.device = torch.device(device)
        suits = "cuda_rays_at_a_time" if self.device.type == "cuda" else "rays_at_a_time"
        self.chunk: int = chunk if chunk is not None else getattr(render_rays, suits, DEFAULT_CHUNK)
        self._layers = dict(layers or {})

    def layers(self) -> Mapping[str, RayLayer]:
        """The layers by name."""
        return self._layers

    def render_layer(self, name: str, camera: Camera, *, cancel: CancelToken | None = None) -> Float[Tensor, "H W"]:
        """One number per pixel; see `layers`."""
        values = []
        with torch.no_grad():
            for rays in self._chunks(camera, cancel):
                values.append(self._layers[name](rays))
        return torch.cat(values).reshape(camera.height, camera.width).cpu()

    def on_background(self, background: tuple[float, float, float]) -> RayRenderer:
        """The same scene before another colour."""
        return self._with(self.render_rays, background)

    def drafted(self) -> RayRenderer:
        """The same scene rendered faster and less well; itself where there is no such way."""
        return self if self.draft is None else self._with(self.draft, self.background)

    def _with(self, render_rays: RenderRays, background: tuple[float, float, float]) -> RayRenderer:
        return RayRenderer(render_rays, background, self.chunk, self.version, self.device, self._layers)

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Render one picture; see `Renderer.render`. Where memory runs out, from then on with fewer rays at once.

        Raises:
            UserError: if memory does not suffice for few rays either.
        """
        for _ in range(HALVINGS):
            try:
                return self._render(camera, cancel)
            except (MemoryError, RuntimeError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
            # Only here, outside the handler, has the failed attempt given its memory back.
            release_memory()
            self.chunk = max(1, min(self.chunk, camera.width * camera.height) // 2)
            logger.warning("out of memory: rendering goes on with %d rays at once", self.chunk)
        try:
            return self._render(camera, cancel)
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"not enough memory to render {camera.width}x{camera.height} pixels, even {self.chunk} at once",
                fix="Close other programs, or render smaller pictures (--downscale-factor)",
            ) from None

    def _render(self, camera: Camera, cancel: CancelToken | None) -> Frame:
        outputs = []
        with torch.no_grad(), picture(camera.width, camera.height, cancel):
            for rays in self._chunks(camera, cancel):
                outputs.append(self.render_rays(rays))
            frame = self._frame(camera, outputs)
        if cancel is not None and self.device.type != "cpu":
            cancel.check()  # the device may have left the picture unfinished
        return frame

    def cropped(self, box: CropBox) -> RayRenderer:
        """The same scene inside the box only; see `CanCrop.cropped`."""
        layers = {name: _clipped_layer(layer, box) for name, layer in self._layers.items()}
        render_rays = crop_rays(self.render_rays, box)
        return RayRenderer(render_rays, box.background, self.chunk, self.version, self.device, layers)

    def _chunks(self, camera: Camera, cancel: CancelToken | None) -> Iterator[Rays]:
        """The rays of a picture in parts, made when they are needed: all those of a large one take half a second."""
        for start in range(0, camera.width * camera.height, self.chunk):
            if cancel is not None:
                cancel.check()
            yield camera.rays(start, start + self.chunk, self.device)

    def _frame(self, camera: Camera, outputs: list[RayOutputs]) -> Frame:
        shape = (camera.height, camera.width)
        rgb = torch.cat([o.rgb for o in outputs])
        depth = torch.cat([o.depth for o in outputs])
        alphas = [o.alpha for o in outputs if o.alpha is not None]
        alpha = torch.cat(alphas) if alphas else None
        if alpha is not None:
            background = torch.tensor(self.background, dtype=rgb.dtype, device=rgb.device)
            rgb = rgb + (1 - alpha[:, None]) * background
            depth = torch.where(alpha > EMPTY_ALPHA, depth / alpha.clamp_min(EMPTY_ALPHA), torch.inf)
        return Frame(
            rgb=rgb.clamp(0, 1).reshape(*shape, 3).cpu(),
            depth=depth.reshape(shape).cpu(),
            alpha=None if alpha is None else alpha.clamp(0, 1).reshape(shape).cpu(),
            version=self.version,
        )


def _clipped_layer(layer: RayLayer, box: CropBox) -> RayLayer:
    return lambda rays: layer(clip_to_box(rays, box))


def crop_rays(render_rays: RenderRays, box: CropBox) -> RenderRays:
    """A function that sees only what lies inside an oriented box.

    Rays are cut to the box before they are evaluated. A method without opacity always returns some colour: its rays
    are evaluated whole, and count as opaque where they end inside the box.
    """
    has_opacity = True

    def render(rays: Rays) -> RayOutputs:
        nonlocal has_opacity
        cut = clip_to_box(rays, box)
        n, seen = len(rays), (cut.t_min < cut.t_max).nonzero()[:, 0]
        rgb, depth, alpha = (rays.rays_o.new_zeros(shape) for shape in ((n, 3), (n,), (n,)))
        if len(seen) == 0:
            return RayOutputs(rgb, depth, alpha)
        inside = cut[seen]
        found = render_rays(inside) if has_opacity else None
        if found is None or found.alpha is None:
            has_opacity = False
            found = render_rays(rays[seen])
            ends_inside = (found.depth >= inside.t_min) & (found.depth <= inside.t_max)
            opacity = ends_inside.to(found.rgb.dtype)
            found = RayOutputs(found.rgb * opacity[:, None], found.depth * opacity, opacity)
        assert found.alpha is not None
        rgb[seen], depth[seen], alpha[seen] = found.rgb, found.depth, found.alpha
        return RayOutputs(rgb, depth, alpha)

    return render


def clip_to_box(rays: Rays, box: CropBox) -> Rays:
    """The rays on the part of their interval that lies inside an oriented box; `t_min >= t_max` where none does."""
    axes = box.rotation.to(rays.rays_o)
    origins = (rays.rays_o - box.center.to(rays.rays_o)) @ axes
    directions = rays.rays_d @ axes
    half = box.size.to(rays.rays_o) / 2
    # Parallel to a face: a tiny slope sends its two crossings to opposite infinities when the ray runs inside.
    slopes = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    near, far = (-half * slopes.sign() - origins) / slopes, (half * slopes.sign() - origins) / slopes
    t_min = torch.maximum(rays.t_min, near.amax(1))
    return Rays(rays.rays_o, rays.rays_d, t_min, torch.minimum(rays.t_max, far.amin(1)))
