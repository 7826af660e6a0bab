"""Writing a mark into the colours of a scene so that every picture of it shows it.

Only a `SectorColors` is trained. Fidelity is a hard budget: after each step the colours are scaled back to it. Each
step follows the normalised gradient of a few attacked views: per unit of picture error, a step along the gradient
moves what is read furthest, where steps of equal size for all parameters (Adam) gave half the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...fields.sector_colors import SectorColors
from ...progress import Progress
from .curriculum import random_attacks
from .objective import Objective
from .row_weights import RowWeights
from .scene_views import SceneView

_MOMENTUM = 0.9
_FIRST_STEP, _LAST_STEP = 0.15, 0.02
"""Length of a step as a share of the allowed picture error: long ones at first, then annealed."""
_MOST_GROWTH = 1.5
"""Of squared errors at the end: looks keep their own view within the budget, which leaves the mean a little below."""
_TRIMS = 3
"""Rounds of scaling back single views; they overlap, so that one leaves some a little beyond."""
_FRAME = 24
"""Pixels of plain surroundings that are left around an object: what the extractor sees of its edge, and a shift."""
_RANDOM_BACKGROUND = 0.25
"""Share of steps on a background of another colour, so that the mark does not hang on the usual one."""


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of the embedding."""

    steps: int = 1500
    """Steps; each looks at `views_per_step` attacked pictures."""
    views_per_step: int = 2
    """Pictures per step."""
    strength: float = 1.0
    """Strength of the attacks at the end, 0 (none) to 1; they grow over the first half."""
    mask_power: float = 0.5
    """How strongly plain areas are spared (0: not at all), see `row_weights`."""
    even_out: float = 0.5
    """How far surfaces that are rarely seen are helped to as long steps as others, 0 (not) to 1 (fully)."""
    beside: float = 0.04
    """How far beside the rendered views the mark is looked at, radians (standard deviation, each axis)."""
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
    """Trains the colours; `run` does all of it.

    Args:
        colors: Zero at first; trained in place.
        views: What it is added to.
        objective: What pictures are to show.
        budget: Allowed mean squared error of pictures, 0..1 values, mean over views.
        worst_budget: The same for each single view.
        settings: How to go about it.
        background: Usual colour behind the scene.
        weights: Factors on updates and gradients of the rows.
        generator: Draws views, backgrounds and attacks.
    """

    def __init__(
        self, colors: SectorColors, views: Sequence[SceneView], objective: Objective, *, budget: float,
        worst_budget: float, settings: EmbedSettings, background: Tensor, weights: RowWeights,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        self.colors, self.views, self.objective, self.settings = colors, views, objective, settings
        self.budget, self.worst_budget, self.background = budget, worst_budget, background
        self.weights, self.generator = weights, generator
        self.direction = colors.empty().requires_grad_(False)
        self.momentum = torch.zeros_like(colors.table.detach())
        self.step, self.accuracy = 0, 0.5

    def run(self, progress: Progress) -> EmbedStatus:
        """Take all steps.

        Args:
            progress: Told about each.
        Raises:
            UserError: after a third of the steps, if the objective sees that it will not be met.
        """
        steps = self.settings.steps
        settling = round(self.objective.settling * steps)
        progress.stage("writing the mark", steps + settling)
        while self.step < steps:
            self.take_step()
            progress.advance(self.step, f"{self.accuracy:.1%} {self.objective.measure}")
            if self.step == -(-steps // 3):
                self.objective.check(self.accuracy)
        mean, worst = self.keep_budget()
        for done in range(1, settling + 1):
            self.settle()
            progress.advance(steps + done, f"{self.accuracy:.1%} {self.objective.measure}")
        return EmbedStatus(self.accuracy, _decibel(mean), _decibel(worst))

    def take_step(self) -> None:
        """Look at a few attacked views; after each, step against the gradient and return into the budget."""
        for index in self._draw():
            self.colors.table.grad = None
            view = self.views[index].from_beside(self.settings.beside, self.generator)
            difference = self._look(view, index)
            if self.colors.table.grad is not None:
                self._move(view, difference)
        self.objective.finish_step(self.step / self.settings.steps)
        self.step += 1

    def settle(self) -> None:
        """Let the objective look at a few attacked views; the colours stay as it is."""
        for index in self._draw():
            self._look(self.views[index], index, moves=False)
        self.objective.finish_step(1.0)

    @torch.no_grad()
    def keep_budget(self) -> tuple[float, float]:
        """Scale the colours until all views together, and each by itself, fill the budget and keep within it.

        Returns:
            Mean and largest squared error that are left.
        """
        for _ in range(_TRIMS):  # first each view that stands out, by itself; what it shares with others moves too
            errors = self._errors()
            beyond = [i for i, error in enumerate(errors) if error > self.worst_budget]
            if not beyond:
                break
            for index in beyond:
                rows = self._rows_seen(self.views[index])
                self.colors.table[rows] *= math.sqrt(self.worst_budget / errors[index])
        errors = self._errors()
        mean, worst = sum(errors) / len(errors), max(errors)
        excess = max(mean / self.budget, worst / self.worst_budget, 1 / _MOST_GROWTH)
        self.colors.table.mul_(1 / math.sqrt(excess))
        return mean / excess, worst / excess

    def _errors(self) -> list[float]:
        """Mean squared error of each view."""
        return [float(view.difference(self.colors).square().mean()) for view in self.views]

    def _rows_seen(self, view: SceneView) -> Int64[Tensor, " R"]:
        """Rows that decide what a view shows."""
        visits = torch.zeros(len(self.colors.table), dtype=torch.bool)
        for part in view.chunks():
            x, d, alpha = view.points(part)
            with torch.enable_grad():
                visits |= self.colors.visits(x, d, alpha[:, None])[:, 0] > 0
        return visits.nonzero()[:, 0]

    def _draw(self) -> list[int]:
        """Numbers of the views of a step."""
        return torch.randint(len(self.views), (self.settings.views_per_step,), generator=self.generator).tolist()

    def _look(self, view: SceneView, index: int, *, moves: bool = True) -> Float[Tensor, "H W 3"]:
        """Add one attacked view's gradient to the table's if it `moves`; returns what the colours add to it now."""
        settings = self.settings
        draw = torch.rand(4, generator=self.generator)
        background = draw[1:] if float(draw[0]) < _RANDOM_BACKGROUND else self.background
        plain = view.unmarked(background)
        difference = view.difference(self.colors)
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
            view.pull_back(self.colors, pixels.grad)
        return difference

    @torch.no_grad()
    def _move(self, view: SceneView, difference: Float[Tensor, "H W 3"]) -> None:
        """Take a step of a length that is measured in the picture, which is linear in the table.

        Only rows that this view sees move, gather momentum, and shrink when the view exceeds the budget: what other
        views show is not worn down before they are looked at again.
        """
        gradient = self.colors.table.grad
        assert gradient is not None
        rows = gradient.any(1).nonzero()[:, 0]
        pull = gradient[rows] * self.weights.evenness[rows, None]
        momentum = _MOMENTUM * self.momentum[rows] - pull / pull.norm().clamp_min(1e-30)
        self.momentum[rows] = momentum
        apply_update(self.direction.table, rows, momentum, self.weights.mask)
        change = view.difference(self.direction)
        progress = self.step / self.settings.steps
        share = _FIRST_STEP * (1 - progress) + _LAST_STEP
        scale = share * math.sqrt(self.budget / max(float(change.square().mean()), 1e-30))
        error = float((difference + scale * change).square().mean())
        shrink = min(1.0, math.sqrt(self.budget / max(error, 1e-30)))
        self.colors.table[rows] = shrink * (self.colors.table[rows] + scale * self.direction.table[rows])
        self.direction.table[rows] = 0


@torch.no_grad()
def apply_update(
    table: Tensor, rows: Int64[Tensor, " R"], update: Float[Tensor, "R F"], mask: Float[Tensor, " E"]
) -> None:
    """Add updates of some rows to a table, each row's scaled by its mask.

    The mask belongs here and not on the gradient: optimisers that divide by the gradient's size would cancel it there.
    """
    table[rows] += update * mask[rows, None]


def _decibel(error: float) -> float:
    return -10 * math.log10(max(error, 1e-12))
