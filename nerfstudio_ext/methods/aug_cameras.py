"""Corrections of the training cameras: a friendly disturbance of the poses that is kept from step to step.

A disturbance that is drawn anew each step can only blur what wrong poses have blurred already. One that is kept, and
moves to where the loss is lower, takes the error of the poses back. Where poses are right it would cost time and
sharpness, so it first looks whether there is something to correct.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..rays import Rays
from .aug_levels import moved_rays
from .protocol import ParamGroup

RATE = 0.04
"""Learning rate in radii: 25 steps to the border of the ball. It may be quick, for only wrong poses are corrected."""
MOVE_UNIT = 0.01
"""Scene units that a radius of 1 lets a camera move by; it lets it turn by one degree."""
LOOKS = 16
"""Batches that are looked at before it is decided whether poses are wrong."""
WRONG = 3.0
"""Mean squared ratio of a slope to its standard error from which on poses are wrong. Noise alone gives 1.1; measured
after these looks were 1.5 on an object with true poses and 19 with errors of 0.5 degrees."""


class CameraCorrections(nn.Module):
    """One small turn and move per training camera, trained along with the scene if they are of use.

    Args:
        n_cameras: Cameras of the capture.
        trained: Positions of the training cameras.
        radius: Largest turn about each axis in degrees, and largest move along each in hundredths of a scene unit.
    """

    looks: Tensor
    slope_sum: Float[Tensor, "2 V 3"]
    slope_squares: Float[Tensor, "2 V 3"]

    def __init__(self, n_cameras: int, trained: Sequence[int], radius: float) -> None:
        super().__init__()
        self.radius, self.trained = radius, list(trained)
        self.turns = nn.Parameter(torch.zeros(n_cameras, 3))
        self.moves = nn.Parameter(torch.zeros(n_cameras, 3))
        self.register_buffer("looks", torch.zeros((), dtype=torch.int64))
        self.register_buffer("slope_sum", torch.zeros(2, n_cameras, 3))
        self.register_buffer("slope_squares", torch.zeros(2, n_cameras, 3))

    @property
    def are_of_use(self) -> bool:
        """Whether poses are wrong, or may be: not all looks have been taken."""
        return int(self.looks) < LOOKS or self.evidence > WRONG

    @property
    def evidence(self) -> float:
        """Mean squared ratio of the slopes of the loss, over the looks so far, to their standard errors."""
        n = max(int(self.looks), 2)
        mean = self.slope_sum[:, self.trained] / n
        variance = (self.slope_squares[:, self.trained] / n - mean.square()) * n / (n - 1)
        return float((mean.square() / (variance / n).clamp_min(1e-30)).mean())

    def param_groups(self) -> list[ParamGroup]:
        """One group for turns (radians), one for moves (scene units)."""
        return [
            ParamGroup("camera turns", (self.turns,), RATE * self.radius * math.pi / 180),
            ParamGroup("camera moves", (self.moves,), RATE * self.radius * MOVE_UNIT),
        ]

    @torch.no_grad()
    def corrected(self, rays: Rays, cam_ids: Int64[Tensor, " R"]) -> Rays:
        """Rays as the corrected cameras see them."""
        rays_o, rays_d = moved_rays(rays.rays_o, rays.rays_d, cam_ids, {"cam_r": self.turns, "cam_t": self.moves})
        return replace(rays, rays_o=rays_o, rays_d=rays_d)

    def still(self) -> dict[str, Tensor]:
        """No further disturbance of the cameras: where `pull` wants the slopes of the loss."""
        return {"cam_r": torch.zeros_like(self.turns), "cam_t": torch.zeros_like(self.moves)}

    def pull(self, slopes: Mapping[str, Tensor]) -> Tensor:
        """Zero, with the given slopes as gradient: added to a loss, it lets the optimiser move the cameras.

        The first slopes are only looked at and move nothing. A turn on top of a small turn is, up to their product,
        their sum, so the slopes at `still` serve for both.
        """
        found = torch.stack([slopes["cam_r"], slopes["cam_t"]]).detach()
        if int(self.looks) < LOOKS:
            self.looks += 1
            self.slope_sum += found
            self.slope_squares += found.square()
            return torch.zeros(())
        total = (found[0] * self.turns).sum() + (found[1] * self.moves).sum()
        return total - total.detach()

    @torch.no_grad()
    def project(self) -> None:
        """Back into the ball, without what all cameras have in common: that would move the scene, not mend it."""
        for correction, unit in ((self.turns, math.pi / 180), (self.moves, MOVE_UNIT)):
            correction[self.trained] -= correction[self.trained].mean(0)
            correction.clamp_(-self.radius * unit, self.radius * unit)
