"""A whole training step on the device: gradients, finite check, Adam and the half-precision copies, as one CUDA graph.

For training loops that keep everything on the device; the host looks only now and then. `field_step` is the same work
for callers with an optimiser of their own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rays import Rays
from . import cuda_params
from .cuda_launch import floats, launcher, words
from .cuda_prepared import mark_modified
from .cuda_step import MAX_HALVINGS, FieldSpace, loss_scale_for, queue_step
from .fused import FieldTensors, Occupancy, StepOptions

CLEAN_STEPS_TO_GROW = 2000
"""Steps without overflow after which the loss scale is doubled again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdamSettings:
    """Settings of the optimiser.

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
        skip_untouched: Leave rows of the table that no sample met as they are, moments included.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-10
    skip_untouched: bool = False


@dataclass(frozen=True)
class Seen:
    """What the host learns when it looks.

    Attributes:
        loss: Of the last step.
        mse: Of the last step.
        n_marched: Samples of the last step.
        n_seen: Samples that took part in its gradient.
        n_dropped: Rays without room.
        n_bad_steps: Steps since the start whose gradients overflowed; they changed nothing.
    """

    loss: float
    mse: float
    n_marched: int
    n_seen: int
    n_dropped: int
    n_bad_steps: int


class FusedTrainer:
    """Trains a field in place.

    Args:
        field: The field; its tensors are changed by `step`.
        occupancy: Where to look; its words may be changed in place between steps.
        options: Lattice and losses; may be replaced between steps.
        n_seen: Room for samples that take part in the gradient.
        n_rays: Largest batch.
        adam: Settings of the optimiser.
        use_graphs: Launch repeated steps as CUDA graphs.
    """

    def __init__(
        self,
        field: FieldTensors,
        occupancy: Occupancy,
        options: StepOptions,
        n_seen: int,
        n_rays: int,
        adam: AdamSettings | None = None,
        *,
        use_graphs: bool = True,
    ) -> None:
        self.field, self.occupancy, self.options = field, occupancy, options
        self.adam, self.use_graphs = adam or AdamSettings(), use_graphs
        self._launch = launcher(field.table.device)
        self.space = FieldSpace()
        self.memory = self.space.memory_for(field, n_rays, n_seen, self._launch)
        self._moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in self._tensors()]
        device = field.table.device
        self._clock, self._rate = torch.zeros(4, device=device), torch.zeros(1, device=device)
        self._n_bad_steps = torch.zeros(1, dtype=torch.float64, device=device)
        self._halvings, self._known_bad, self._clean_since, self.n_steps = 0, 0, 0, 0
        self.memory.half.fill(self._launch, field)

    def step(self, rays: Rays, jitter: Tensor, target: Tensor, background: Tensor, rate: float) -> None:
        """Queue a step on a batch at a learning rate; waits for nothing."""
        self.memory.take(rays, jitter, target, background)
        self._rate.fill_(rate)
        n_rays = len(rays)
        scale = loss_scale_for(n_rays, self._halvings)

        def queue() -> None:
            queue_step(
                self._launch, self.memory, self.occupancy, self.options, n_rays, scale,
                deterministic=self.options.deterministic,
            )  # fmt: skip
            self._queue_adam()

        if self.use_graphs:
            key = (n_rays, scale, self.options, self.occupancy.bits.data_ptr())
            self.space.run_captured(key, queue, self._launch.device)
        else:
            queue()
        self.n_steps += 1
        mark_modified(self._tensors())

    def look(self) -> Seen:
        """Wait for the device and read the figures of the last step; adapts the loss scale to overflows since."""
        figures = torch.cat([self.memory.figures, self._n_bad_steps]).tolist()
        n_bad = int(figures[8])
        if n_bad > self._known_bad and self._halvings < MAX_HALVINGS:
            self._halvings += 1
            self._clean_since = self.n_steps
            _log.info("gradients overflowed: loss scale / %d", 2**self._halvings)
        elif self._halvings and self.n_steps - self._clean_since >= CLEAN_STEPS_TO_GROW:
            self._halvings -= 1
            self._clean_since = self.n_steps
        self._known_bad = n_bad
        loss = figures[0] + self.options.distortion * figures[2]
        return Seen(loss, figures[1], int(figures[3]), int(figures[5]), int(figures[4] + figures[6]), n_bad)

    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor.detach() for tensor in self.field.tensors)

    def _queue_adam(self) -> None:
        m, a, n_bad = self.memory, self.adam, words(self.memory.n_bad)
        self._n_bad_steps.add_(m.n_bad > 0)
        clock = cuda_params.AdamClock(floats(self._clock), floats(self._rate), n_bad, a.beta1, a.beta2)
        self._launch("adam_clock", clock)
        gradients = [m.table_gradients, *m.matrix_gradients(self.field)]
        masters = self._tensors()
        for index, (master, gradient, (first, second)) in enumerate(
            zip(masters, gradients, self._moments, strict=True)
        ):
            is_table = index == 0
            arguments = cuda_params.Adam(
                floats(master), floats(gradient), floats(first), floats(second),
                words(m.half.table) if is_table else None, master.numel(), int(a.skip_untouched and is_table),
                a.beta1, a.beta2, a.eps, floats(self._clock), n_bad,
            )  # fmt: skip
            self._launch("adam", arguments, master.numel())
        m.half.pack(self._launch, list(masters[1:]))
