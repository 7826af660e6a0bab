"""Which source views a GNT picture is made from, and how a target with its sources is augmented in training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..fields.epipolar import SourceCameras

Nearness = Literal["vector", "dist", "matrix"]
"""How near two cameras are: angle between their directions from the scene's centre, distance, angle of rotation."""
_EXCLUDED = 1e3
"""Stands for the distance of the target to itself; larger than any distance between cameras of a scene."""
_CROP_AREA = 240_000
_CROP_HEIGHTS = (250, 750)


def nearest_views(
    target: Float[Tensor, "3 4"],
    references: Float[Tensor, "N 3 4"],
    n: int,
    method: Nearness,
    *,
    centre: Float[Tensor, "3"] | None = None,
    exclude: int | None = None,
    leaves_one: bool = True,
) -> Int64[Tensor, " n"]:
    """Positions of the references nearest to a target, nearest first.

    Args:
        target: Camera to world.
        references: Camera to world of the views to choose from.
        n: How many.
        method: What near means.
        centre: Centre of the scene for "vector"; default: the origin.
        exclude: Position of the target itself, where it is one of them.
        leaves_one: Return at most all but one, as the official code does whether or not the target is among them.
    """
    distance = _distances(target.double(), references.double(), method, centre)
    if exclude is not None:
        distance[exclude] = _EXCLUDED
    return torch.argsort(distance, stable=True)[: min(n, len(references) - leaves_one)]


def _distances(target: Tensor, references: Tensor, method: Nearness, centre: Tensor | None) -> Tensor:
    if method == "matrix":
        trace = torch.einsum("ji,nji->n", target[:, :3], references[:, :, :3])
        return torch.arccos(((trace - 1) / 2).clamp(-1, 1))
    if method == "dist":
        return (references[:, :, 3] - target[:, 3]).norm(dim=-1)
    middle = torch.zeros(3, dtype=torch.float64) if centre is None else centre.double()
    a = torch.nn.functional.normalize(target[:, 3] - middle, dim=0)
    b = torch.nn.functional.normalize(references[:, :, 3] - middle, dim=-1)
    return torch.arccos((b @ a).clamp(-1, 1))


def choose_sources(
    target: int,
    references: list[int],
    poses: Float[Tensor, "N 3 4"],
    plan: SourcePlan,
    generator: torch.Generator,
) -> list[int]:
    """Positions of the sources for one training step, in random order.

    Args:
        target: Position of the target in `poses`.
        references: Positions of the views to choose from; may hold the target.
        poses: Camera to world of all views.
        plan: How many and how near.
        generator: Draws them.
    """
    low, high = plan.vary
    n_views = plan.n_views + int(torch.randint(low, high + 1, (1,), generator=generator))
    draw = float(torch.rand((), generator=generator))
    shares = torch.tensor(plan.spread_shares).cumsum(0)
    factor = 1 + min(int(torch.searchsorted(shares, draw, right=True)), len(plan.spread_shares) - 1)
    n_candidates = min(factor * n_views, plan.most_candidates)
    exclude = references.index(target) if target in references else None
    near = nearest_views(poses[target], poses[references], n_candidates, plan.nearness, exclude=exclude)
    order = torch.randperm(len(near), generator=generator)[:n_views]
    chosen = [references[i] for i in near[order].tolist()]
    if float(torch.rand((), generator=generator)) < plan.target_share:
        chosen[int(torch.randint(len(chosen), (1,), generator=generator))] = target
    return chosen


@dataclass(frozen=True)
class SourcePlan:
    """How sources are drawn in training.

    Attributes:
        n_views: Sources of a picture.
        vary: Smallest and largest number added to `n_views`, drawn evenly.
        spread_shares: Probability of drawing from the nearest 1, 2, 3 times as many views.
        most_candidates: Never draw from more views than this.
        nearness: What near means.
        target_share: Probability that the target itself replaces one source.
    """

    n_views: int = 10
    vary: tuple[int, int] = (0, 0)
    spread_shares: tuple[float, float, float] = (0.3, 0.5, 0.2)
    most_candidates: int = 1 << 30
    nearness: Nearness = "vector"
    target_share: float = 0.005


PLANS = {
    "object": SourcePlan(),
    "forward": SourcePlan(vary=(-2, 1), spread_shares=(0.2, 0.45, 0.35), most_candidates=28, nearness="dist"),
    "collected": SourcePlan(vary=(-2, 2), spread_shares=(0.2, 0.45, 0.35), most_candidates=22, nearness="dist"),
}
"""By kind of capture: cameras around an object; facing a scene from one side; snapshots in passing."""


@dataclass(frozen=True)
class TrainingViews:
    """A target picture and its sources, as one training step sees them.

    Attributes:
        picture: Target; what else is known of its pixels may follow the colours as further channels.
        sources: Pictures of the sources, all of one size.
        camera: Of the target (one camera).
        cameras: Of the sources.
    """

    picture: Float[Tensor, "C H W"]
    sources: Float[Tensor, "V 3 H W"]
    camera: SourceCameras
    cameras: SourceCameras


def crop_views(views: TrainingViews, height: int, width: int, centre: tuple[int, int]) -> TrainingViews:
    """Cut the same rectangle from target and sources.

    Args:
        views: Uncropped.
        height: Of the rectangle, even.
        width: Of the rectangle, even.
        centre: (row, column) of its middle.
    """
    top, left = centre[0] - height // 2, centre[1] - width // 2
    rows, columns = slice(top, top + height), slice(left, left + width)

    def cut(cameras: SourceCameras) -> SourceCameras:
        K = cameras.K.clone()
        K[:, 0, 2] -= left
        K[:, 1, 2] -= top
        return replace(cameras, K=K, sizes=torch.tensor([width, height]).to(cameras.sizes).expand_as(cameras.sizes))

    return TrainingViews(
        views.picture[:, rows, columns], views.sources[:, :, rows, columns], cut(views.camera), cut(views.cameras)
    )


def flip_views(views: TrainingViews) -> TrainingViews:
    """Mirror all pictures left to right; the cameras get a negative focal length, so that rays stay where they were."""

    def mirror(cameras: SourceCameras) -> SourceCameras:
        K = cameras.K.clone()
        K[:, 0, 0] *= -1
        K[:, 0, 2] = cameras.sizes[:, 0] - 1 - K[:, 0, 2]
        return replace(cameras, K=K)

    return TrainingViews(views.picture.flip(-1), views.sources.flip(-1), mirror(views.camera), mirror(views.cameras))


def random_crop(views: TrainingViews, generator: torch.Generator) -> TrainingViews:
    """A crop of about 240,000 pixels of random shape at a random place; pictures that are smaller stay whole."""
    height = int(torch.randint(*_CROP_HEIGHTS, (1,), generator=generator)) // 2 * 2
    width = math.floor(_CROP_AREA / height) // 2 * 2
    full_height, full_width = views.picture.shape[1:]
    if height >= full_height or width >= full_width:
        return views
    row = int(torch.randint(height // 2, full_height - height // 2 + 1, (1,), generator=generator))
    column = int(torch.randint(width // 2, full_width - width // 2 + 1, (1,), generator=generator))
    return crop_views(views, height, width, (row, column))
