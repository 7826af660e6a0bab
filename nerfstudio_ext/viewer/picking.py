"""Points of the scene under clicks: from a pixel through the rendered depth to a place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import viser.transforms
from jaxtyping import Float
from torch import Tensor

from ..camera_paths import WorldFrame
from ..errors import UserError
from ..renderer import Renderer
from .shots import dressed
from .views import View

if TYPE_CHECKING:
    from .desk import Desk

PATCH_PX, PATCH_SIDE = 5, 1024
"""A patch of so many pixels of a picture of that size decides about the depth: one ray may slip through a gap."""
POINT_COLOUR, LINE_COLOUR = (255, 90, 90), (255, 200, 90)
POINT_SIZE, AXES_SIZE = 0.012, 0.25


def point_under(renderer: Renderer, view: View, u: float, v: float) -> Float[Tensor, "3"]:
    """The place of the surface at a position of the picture, training frame, float64.

    Args:
        renderer: The scene.
        view: What the browser looks at, with its cuts.
        u: Column as a share of the width, 0..1.
        v: Row as a share of the height, 0..1.
    Raises:
        UserError: if nothing is there.
    """
    if not (0 <= u <= 1 and 0 <= v <= 1):
        raise UserError("that is beside the picture", fix="Click into it")
    camera = view.camera(PATCH_SIDE)
    left = min(max(round(u * camera.width - PATCH_PX / 2), 0), max(0, camera.width - PATCH_PX))
    top = min(max(round(v * camera.height - PATCH_PX / 2), 0), max(0, camera.height - PATCH_PX))
    patch = camera.crop(left, top, min(PATCH_PX, camera.width), min(PATCH_PX, camera.height))
    depth = dressed(renderer, view.look, camera).render(patch).depth
    seen = depth[depth.isfinite()]
    if len(seen) < depth.numel() // 2:
        raise UserError("there is nothing under that point", fix="Click on the scene itself")
    uv = torch.tensor([[u * camera.width, v * camera.height]], dtype=torch.float64)
    rays = camera.rays_through(uv)
    return rays.rays_o[0] + float(seen.median()) * rays.rays_d[0]


class Picker:
    """Asks a visitor for points of the scene and draws them.

    Attributes:
        points: The points chosen last, training frame.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.points: list[Tensor] = []
        self._wanted = 0
        self._found: Callable[[list[Tensor]], None] = lambda points: None
        self._listener: Any = None
        self._drawn: list[Any] = []
        self._axes: list[Any] = []
        self._axes_of: WorldFrame | None = None

    def ask(self, n: int, found: Callable[[list[Tensor]], None]) -> None:
        """Take the next `n` clicks as points; `found` gets them together."""
        self.forget()
        self.points, self._wanted, self._found = [], n, found
        self._draw()
        register = functools.partial(self._register)
        self._desk.on_event(register, self._clicked)

    def forget(self) -> None:
        """Stop listening for clicks."""
        if self._listener is not None:
            self._desk.scene.remove_click_callback(self._listener)
            self._listener = None

    def draw_axes(self, is_shown: bool) -> None:
        """Draw the world's axes and ground at its origin, or take them away."""
        world, scene = self._desk.room.world, self._desk.scene
        wanted = world.world if is_shown else None
        if wanted is self._axes_of:
            return
        self._axes_of = wanted
        for handle in self._axes:
            handle.remove()
        self._axes = []
        if not is_shown:
            return
        reach = self._desk.room.training_views.reach
        frame = self._desk.room.frame
        to_training = world.world.rotation.T if frame is None else frame.rotation @ world.world.rotation.T
        wxyz = viser.transforms.SO3.from_matrix(to_training.numpy()).wxyz
        place = world.origin.numpy()
        size = AXES_SIZE * reach
        self._axes = [
            scene.add_frame("/world/axes", axes_length=size, axes_radius=0.02 * size, wxyz=wxyz, position=place),
            scene.add_grid("/world/ground", 4 * reach, 4 * reach, cell_size=size, wxyz=wxyz, position=place),
        ]

    def _register(self, handler: Callable[[Any], None]) -> None:
        self._listener = handler
        self._desk.scene.on_click()(handler)

    def _clicked(self, event: Any) -> None:
        view, sources = self._desk.view, self._desk.room.sources()
        if view is None or not sources or not self._wanted:
            return
        u, v = (float(share) for share in np.asarray(event.screen_pos, float).reshape(-1)[:2])
        renderer = sources.get(view.look.side.source) or next(iter(sources.values()))
        self.points.append(point_under(renderer, view, u, v))
        self._draw()
        if len(self.points) >= self._wanted:
            self.forget()
            self._found(self.points)

    def _draw(self) -> None:
        for handle in self._drawn:
            handle.remove()
        scene, reach = self._desk.scene, self._desk.room.training_views.reach
        self._drawn = [
            scene.add_icosphere(
                f"/picked/{i}", POINT_SIZE * reach, POINT_COLOUR, position=point.numpy(), cast_shadow=False
            )
            for i, point in enumerate(self.points)
        ]
        if len(self.points) > 1:
            ends = torch.stack(self.points[-2:]).numpy()[None]
            self._drawn.append(
                scene.add_line_segments(
                    "/picked/line",
                    ends,
                    np.full((1, 2, 3), LINE_COLOUR, np.uint8),
                    thickness=3.0,
                    thickness_units="screen",
                )
            )
