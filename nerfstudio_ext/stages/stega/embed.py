"""Writing a mark into the colours of a scene so that every picture of it shows it.

Only a `ColorResidual` is trained. Fidelity is a hard budget: after each step the residual is scaled back to it. Each
step follows the normalised gradient of a few attacked views: per unit of picture error, a step along the gradient
moves what is read furthest, where steps of equal size for all parameters (Adam) gave half the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ...fields.color_residual import ColorResidual
from ...progress import Progress
from .curriculum import random_attacks
from .objective import Objective
from .scene_views import SceneView

_MOMENTUM = 0.9
_FIRST_STEP, _LAST_STEP = 0.15, 0.02
"""Length of a step as a share of the allowed picture error: long ones at first, then annealed."""
_FORGET = 0.9
_FRAME = 24
"""Pixels of plain surroundings that are left around an object: what the extractor sees of its edge, and a shift."""
_RANDOM_BACKGROUND = 0.25
"""Share of steps on a background of another colour, so that the mark does not hang on the usual one."""


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of the embedding."""

    steps: int = 600
    """Steps; each looks at `views_per_step` attacked pictures."""
    views_per_step: int = 2
    """Pictures per step."""
    strength: float = 1.0
    """Strength of the attacks at the end, 0 (none) to 1; they grow over the first half."""
    mask_power: float = 0.5
    """How strongly plain areas are spared (0: not at all), see `update_mask`."""
    even_out: float = 0.5
    """How far surfaces that are rarely seen are helped to as long steps as others, 0 (not) to 1 (fully)."""
    bfloat16: bool = True
    """Run the network that reads the mark in 16 bits while embedding."""


@dataclass(frozen=True)
class EmbedStatus:
    """How an embedding went.

    Attributes:
        accuracy: Share that was right in attacked pictures (of code bits, say), mean over the last tenth of the steps.
        psnr: Mean fidelity of the mark over all views, dB.
        worst_psnr: The same of the view that is changed most.
    """

    accuracy: float
    psnr: float
    worst_psnr: float


class Embedder:
    """Trains the residual; `run` does all of it.

    Args:
        residual: Zero at first; trained in place.
        views: What it is added to.
        objective: What pictures are to show.
        budget: Allowed mean squared error of pictures, 0..1 values, mean over views.
        worst_budget: The same for each single view.
        settings: How to go about it.
        background: Usual colour behind the scene.
        mask: [E] factors on updates of the residual's rows; see `update_mask`.
        generator: Draws views, backgrounds and attacks.
    """

    def __init__(
        self, residual: ColorResidual, views: Sequence[SceneView], objective: Objective, *, budget: float,
        worst_budget: float, settings: EmbedSettings, background: Tensor, mask: Tensor, generator: torch.Generator,
    ) -> None:  # fmt: skip
        self.residual, self.views, self.objective, self.settings = residual, views, objective, settings
        self.budget, self.worst_budget, self.background = budget, worst_budget, background
        self.mask, self.generator = mask, generator
        self.evenness = _evenness(residual, views, settings.even_out)
        self.direction = ColorResidual(residual.layout, residual.bands, residual.aabb_scale).requires_grad_(False)
        self.momentum = torch.zeros_like(residual.table.detach())
        self.step, self.accuracy = 0, 0.5
        self._error: float | None = None

    def run(self, progress: Progress, check: Callable[[Embedder], None] | None = None) -> EmbedStatus:
        """Take all steps.

        Args:
            progress: Told about each.
            check: Called after a third of them; may raise to give up.
        """
        steps = self.settings.steps
        settling = round(self.objective.settling * steps)
        progress.stage("writing the mark", steps + settling)
        while self.step < steps:
            self.take_step()
            progress.advance(self.step, f"{self.accuracy:.1%} {self.objective.measure}")
            if check is not None and self.step == -(-steps // 3):
                check(self)
        mean, worst = self.keep_budget()
        for done in range(1, settling + 1):
            self.settle()
            progress.advance(steps + done, f"{self.accuracy:.1%} {self.objective.measure}")
        return EmbedStatus(self.accuracy, _decibel(mean), _decibel(worst))

    def take_step(self) -> None:
        """Look at a few attacked views, step against the gradient, return into the budget."""
        self.residual.table.grad = None
        picked = self._draw()
        differences = [self._look(index) for index in picked]
        if self.residual.table.grad is not None:
            self._move([self.views[index] for index in picked], differences)
        self.objective.finish_step(self.step / self.settings.steps)
        self.step += 1

    def settle(self) -> None:
        """Let the objective look at a few attacked views; the residual stays as it is."""
        for index in self._draw():
            self._look(index, moves=False)
        self.objective.finish_step(1.0)

    @torch.no_grad()
    def keep_budget(self) -> tuple[float, float]:
        """Scale the residual until all views together, and each by itself, are within the budget.

        Returns:
            Mean and largest squared error that are left.
        """
        errors = [float(view.difference(self.residual).square().mean()) for view in self.views]
        mean, worst = sum(errors) / len(errors), max(errors)
        excess = max(mean / self.budget, worst / self.worst_budget, 1.0)
        self.residual.table.mul_(1 / math.sqrt(excess))
        return mean / excess, worst / excess

    def _draw(self) -> list[int]:
        """Numbers of the views of a step."""
        return torch.randint(len(self.views), (self.settings.views_per_step,), generator=self.generator).tolist()

    def _look(self, index: int, *, moves: bool = True) -> Float[Tensor, "H W 3"]:
        """Add one attacked view's gradient to the table's if it `moves`; returns what the residual adds to it now."""
        view, settings = self.views[index], self.settings
        draw = torch.rand(4, generator=self.generator)
        background = draw[1:] if float(draw[0]) < _RANDOM_BACKGROUND else self.background
        plain = view.unmarked(background)
        difference = view.difference(self.residual)
        pixels = (plain + difference).requires_grad_(moves)
        both = [pixels, plain] if self.objective.sees_unmarked else [pixels]
        if self.objective.is_local:
            rows, columns = view.box(_FRAME)
            both = [picture[rows, columns] for picture in both]
        strength = settings.strength * min(1.0, 2 * self.step / settings.steps)
        state = self.generator.get_state()
        attacked = []
        for picture in both:  # the same attacks: nothing but the mark tells marked from unmarked
            self.generator.set_state(state)
            attacked.append(random_attacks(picture.permute(2, 0, 1)[None], strength, self.generator))
        loss, right = self.objective.loss(torch.cat(attacked), index)
        loss.backward()
        self.accuracy += (right - self.accuracy) * max(1 / (self.step + 1), min(1.0, 10 / settings.steps))
        if pixels.grad is not None:
            view.pull_back(self.residual, pixels.grad)
        return difference

    @torch.no_grad()
    def _move(self, views: Sequence[SceneView], differences: Sequence[Tensor]) -> None:
        """Take a step of a length that is measured in pictures; pictures are linear in the table."""
        gradient = self.residual.table.grad
        assert gradient is not None
        gradient = gradient * self.evenness[:, None]
        self.momentum.mul_(_MOMENTUM).sub_(gradient / gradient.norm().clamp_min(1e-30))
        self.direction.table.zero_()
        apply_update(self.direction.table, self.momentum, self.mask)
        changes = [view.difference(self.direction) for view in views]
        progress = self.step / self.settings.steps
        share = _FIRST_STEP * (1 - progress) + _LAST_STEP
        scale = share * math.sqrt(self.budget / max(_mean_square(changes), 1e-30))
        self.residual.table.add_(self.direction.table, alpha=scale)
        error = _mean_square([d + scale * c for d, c in zip(differences, changes, strict=True)])
        self._error = error if self._error is None else _FORGET * self._error + (1 - _FORGET) * error
        if self._error > self.budget:
            self.residual.table.mul_(math.sqrt(self.budget / self._error))
            self._error = self.budget


@torch.no_grad()
def apply_update(table: Tensor, update: Float[Tensor, "E F"], mask: Float[Tensor, " E"]) -> None:
    """Add an update to a table, each row's scaled by its mask.

    The mask belongs here and not on the gradient: optimisers that divide by the gradient's size would cancel it there.
    """
    table.add_(update * mask[:, None])


@torch.no_grad()
def update_mask(
    residual: ColorResidual, views: Sequence[SceneView], background: Float[Tensor, "3"], power: float
) -> Float[Tensor, " E"]:
    """How far each row of the residual may move: 1 on the busiest tenth of what is seen, less where it is plain.

    The paper's mask spares weights that matter most to the picture, `(|theta| / q)^-power`. A residual has no weights
    of its own; what matters is how plain its surroundings are, since eyes find changes there. Rows that nothing looks
    at stay zero.

    Source: Li et al. 2023 (StegaNeRF), section 3.3, with plainness in place of magnitude.
    """
    visits, plainness = torch.zeros(residual.layout.n_rows), torch.zeros(residual.layout.n_rows)
    for view in views:
        texture = _local_deviation(view.unmarked(background)).reshape(-1)
        for part in view.chunks():
            x, _, alpha = view.points(part)
            with torch.enable_grad():
                visits += residual.visits(x, alpha)
                plainness += residual.visits(x, alpha / (texture[view.seen[part]] + 2 / 255))
    is_visited = visits > 0
    if not bool(is_visited.any()):
        return torch.zeros_like(visits)
    importance = torch.where(is_visited, plainness / visits.clamp_min(1e-12), torch.inf)
    known = importance[is_visited]
    quantile = known.sort().values[len(known) // 10]
    return torch.where(is_visited, (importance / quantile).clamp_min(1.0) ** -power, torch.zeros(()))


def _evenness(residual: ColorResidual, views: Sequence[SceneView], power: float) -> Float[Tensor, " E"]:
    """[E] factors on gradients: the less often a row is seen, the larger."""
    visits = torch.zeros(residual.layout.n_rows)
    for view in views:
        for part in view.chunks():
            x, _, alpha = view.points(part)
            visits += residual.visits(x, alpha)
    seen = visits[visits > 0]
    mean = float(seen.mean()) if len(seen) else 1.0
    return (visits / mean + 0.05) ** -power


def _local_deviation(picture: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"]:
    """Standard deviation of brightness around each pixel."""
    grey = picture.mean(-1)[None, None]
    mean, square = (functional.avg_pool2d(y, 9, 1, 4, count_include_pad=False) for y in (grey, grey.square()))
    return (square - mean.square()).clamp_min(0).sqrt()[0, 0]


def _mean_square(pictures: Sequence[Tensor]) -> float:
    return sum(float(picture.square().mean()) for picture in pictures) / len(pictures)


def _decibel(error: float) -> float:
    return -10 * math.log10(max(error, 1e-12))
