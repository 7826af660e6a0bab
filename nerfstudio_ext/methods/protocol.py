"""What every scene method offers to the trainer, the renderer and the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from ..rays import RayOutputs, Rays
from ..scenes.pixel_sampler import PixelBatch

if TYPE_CHECKING:
    from ..scenes.model import Scene


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share one optimiser setting.

    Attributes:
        name: For logs and checkpoints.
        params: The parameters.
        lr: Peak learning rate.
        eps: Adam's epsilon.
        betas: Adam's betas.
        weight_decay: Decoupled weight decay.
    """

    name: str
    params: tuple[nn.Parameter, ...]
    lr: float
    eps: float = 1e-15
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0


class Method(Protocol):
    """A trainable scene representation. Implementations are `nn.Module`s by composition, with no base class of ours.

    All rays are in the training frame of the scene the method was built for.
    """

    n_rays: int
    """Rays the method wants in its next training batch; may change after each step."""

    def param_groups(self) -> list[ParamGroup]:
        """The parameters to optimise."""

    def lr_factor(self, progress: float) -> float:
        """Learning-rate factor at `progress` 0..1 of the planned training."""

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """Named losses of one batch; the trainer sums them and calls backward.

        The entry "mse" is the mean squared colour error for the PSNR display; it carries no gradient and is not summed.
        """

    def after_step(self, step: int) -> None:
        """Housekeeping after the optimiser step: occupancy refresh, averages, schedules."""

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights; no gradients."""

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a frozen copy of the weights, safe to call from another thread while training goes on."""

    def stats(self) -> Mapping[str, float]:
        """Numbers worth logging: occupancy, samples per ray."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """All state as tensors, random generators included: what resume needs to be bit-equal."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> object:
        """Restore `state_dict()`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""


@runtime_checkable
class NeedsPhotos(Protocol):
    """A method that looks at the photos when it renders, not only when it is trained."""

    def take_photos(self, scene: Scene) -> None:
        """Keep what it needs of the photos of the capture it was built for."""

    def photo_tensors(self) -> Mapping[str, Tensor]:
        """What it keeps, for a file beside the checkpoints; it does not change in training."""

    def load_photo_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `photo_tensors()`.

        Raises:
            UserError: if they do not belong to the capture.
        """


class Batches(Protocol):
    """Where training batches come from."""

    def next(self, n_rays: int) -> PixelBatch:
        """The next batch, of about `n_rays` pixels."""

    def rays(self, batch: PixelBatch) -> Rays:
        """The rays of a batch, in the training frame."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """The random state as tensors."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> object:
        """Restore `state_dict()`."""


@runtime_checkable
class CanDivide(Protocol):
    """Batches that can be had in parts: all processes draw the same, each looks up the pixels of its part only."""

    def next_part(self, n_rays: int, part: slice) -> PixelBatch:
        """Those of the next `n_rays` pixels that the part names."""


@runtime_checkable
class HasBatches(Protocol):
    """A method that wants its training pixels in an order of its own, not evenly from all photos."""

    def batches(self, scene: Scene, seed: int) -> Batches:
        """The stream of batches."""


class Share(Protocol):
    """One process's part of every batch, where several processes train one method together.

    All of them draw the same random numbers and hold the same state; only the work on a batch is divided. The calls
    below are made by all processes in the same order.
    """

    def part(self, n: int) -> slice:
        """Which of `n` equal pieces of work are this process's."""

    def n_at_most(self, n: int) -> int:
        """The most of `n` pieces that any process has."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""

    def gather(self, own: Tensor, n: int) -> Tensor:
        """The numbers of all `n` pieces, of which this process computed those of its part."""


@runtime_checkable
class CanShare(Protocol):
    """A method that several processes can train together.

    `train_step` then gets this process's part of the `n_rays` pixels, draws random numbers for all of them, and returns
    the mean losses of the part; state and size of the next batch stay the same in all processes.
    """

    def take_share(self, share: Share) -> None:
        """Work on this part of every batch from now on."""
