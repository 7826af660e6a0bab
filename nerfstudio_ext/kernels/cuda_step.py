"""The training step on the device: march, evaluate, composite, and all gradients, as one sequence of kernels.

How many samples there are is known on the device only, so that nothing waits in between and the sequence can be
captured as a CUDA graph: later steps of the same size are then one launch.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..rays import Rays
from . import cuda_params
from .cuda_arguments import HalfField, bits_of, lattice_of, ray_list
from .cuda_launch import Launcher, floats, launcher, longs, words
from .cuda_memory import Room, StepMemory
from .fused import FieldTensors, Occupancy, StepOptions

LOSS_SCALE = 128.0
"""Gradients of a ray times its share of the batch are this much larger than they are while in half precision."""
MAX_HALVINGS = 12
KEPT_GRAPHS = 48
_MIN_RAYS = 1024
_NO_LIMIT = 0xFFFFFFFF

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepDone:
    """What a step found.

    Attributes:
        loss: Colour loss plus weighted distortion, on the device.
        gradients: Of (table, d1, d2, c1, c2, c3); memory of the step.
        color_loss, mse, distortion: As in `StepResult`.
        n_marched, n_seen, n_dropped: As in `StepResult`.
    """

    loss: Tensor
    gradients: tuple[Tensor, ...]
    color_loss: float
    mse: float
    distortion: float
    n_marched: int
    n_seen: int
    n_dropped: int


def loss_scale_for(n_rays: int, halvings: int) -> float:
    """Factor on gradients in half precision, a power of two: the share 1 / (3 R) of a ray is taken out."""
    return 2.0 ** (round(math.log2(LOSS_SCALE * 3 * max(n_rays, 1))) - halvings)


def queue_step(
    launch: Launcher,
    memory: StepMemory,
    occupancy: Occupancy,
    options: StepOptions,
    n_rays: int,
    scale: float,
    *,
    deterministic: bool = False,
) -> None:
    """Queue all kernels of a step on a batch that lies in `memory`, whose half-precision field is up to date."""
    m, half = memory, memory.half
    rays = ray_list(m.rays)
    rays.n_rays = n_rays
    lattice, bits = lattice_of(options.marching), bits_of(occupancy)
    common = (rays, bits, lattice, floats(m.jitter))
    launch("march_count", cuda_params.MarchCount(*common, _NO_LIMIT, words(m.counts)), n_rays)
    _scan(launch, m.counts, n_rays, m.room.n_marched, m.packed_info, m.totals)
    outputs = (words(m.packed_info), floats(m.t_starts), floats(m.t_ends), words(m.sample_rays))
    launch("march_write", cuda_params.MarchWrite(*common, *outputs), n_rays)
    m.queue.zero_()
    forward = cuda_params.FieldAlong(
        half.view(), rays, words(m.packed_info), floats(m.t_starts), floats(m.t_ends), options.stop_transmittance,
        words(m.queue), floats(m.colors_sigmas), words(m.features),
    )  # fmt: skip
    launch("field_along", forward, None, half.shape)
    launch("step_loss", _loss_arguments(m, options, n_rays, scale), n_rays)
    _scan(launch, m.seen_counts, n_rays, m.room.n_seen, m.seen_info, m.seen_totals)
    listing = cuda_params.ListSeen(words(m.packed_info), words(m.seen_info), n_rays, words(m.seen))
    launch("list_seen", listing, n_rays)
    launch("field_backward", _backward_arguments(m, half, rays, scale), None, half.shape)
    sums = cuda_params.ReduceNetworks(floats(m.partials), m.n_blocks, 1 / scale, floats(m.network_gradients))
    launch("reduce_networks", sums, len(m.network_gradients), half.shape)
    _queue_grid(launch, m, rays, scale, deterministic)
    m.n_bad.zero_()
    for values in (m.table_gradients, m.network_gradients):
        n = values.numel()
        launch("count_bad", cuda_params.CountBad(floats(values), n, words(m.n_bad)), n)
    _queue_figures(m, options, n_rays)


def _queue_grid(launch: Launcher, m: StepMemory, rays: Any, scale: float, deterministic: bool) -> None:
    """The gradient of the table; where its sum must not depend on the order, through whole numbers."""
    half, sums = m.half, m.fixed if deterministic else m.table_gradients
    sums.zero_()
    grid = cuda_params.GridBackward(
        half.grid(), rays, m.samples(), words(m.seen), words(m.seen_totals), words(m.feature_gradients),
        half.unit_scale, 1 / scale, sums.data_ptr(), None,
    )  # fmt: skip
    launch("grid_backward", grid, None, half.shape, deterministic=deterministic)
    if deterministic:
        n = sums.numel()
        arguments = cuda_params.TableToFloat(longs(sums), n, 1 / scale, floats(m.table_gradients))
        launch("table_to_float", arguments, n, half.shape, deterministic=True)


def _scan(launch: Launcher, counts: Tensor, n: int, capacity: int, packed: Tensor, totals: Tensor) -> None:
    launch("scan_counts", cuda_params.ScanCounts(words(counts), n, capacity, words(packed), words(totals)))


def _loss_arguments(m: StepMemory, options: StepOptions, n_rays: int, scale: float) -> Any:
    return cuda_params.StepLoss(
        packed_info=words(m.packed_info), t_starts=floats(m.t_starts), t_ends=floats(m.t_ends),
        colors_sigmas=floats(m.colors_sigmas), target=floats(m.target), background=floats(m.background),
        n_rays=n_rays, stop_transmittance=options.stop_transmittance, huber=options.huber,
        distortion=options.distortion, near_fade=options.near_fade, loss_scale=scale,
        logit_gradients=floats(m.logit_gradients), ray_losses=floats(m.ray_losses), seen_counts=words(m.seen_counts),
        outputs=None,
    )  # fmt: skip


def _backward_arguments(m: StepMemory, half: HalfField, rays: Any, scale: float) -> Any:
    return cuda_params.FieldBackward(
        field=half.view(), rays=rays, samples=m.samples(), features=words(m.features),
        logit_gradients=floats(m.logit_gradients), seen=words(m.seen), n_seen=words(m.seen_totals),
        feature_gradients=words(m.feature_gradients), partials=floats(m.partials), direction_gradients=None,
        inverse_loss_scale=1 / scale,
    )  # fmt: skip


def _queue_figures(m: StepMemory, options: StepOptions, n_rays: int) -> None:
    """Losses and counts as one small tensor: eight numbers, so that one copy tells the host everything."""
    is_kept = m.seen_info[:n_rays, 1:] >= 0  # rays without room for their seen samples count in nothing
    sums = torch.where(is_kept, m.ray_losses[:n_rays], 0.0).sum(0, dtype=torch.float64) / max(n_rays, 1)
    m.figures[:3] = sums
    m.figures[:2] /= 3
    m.figures[3:5] = m.totals[:2]
    m.figures[5:7] = m.seen_totals[:2]
    m.figures[7:] = m.n_bad
    m.loss.copy_(m.figures[0] + options.distortion * m.figures[2])


class FieldSpace:
    """What a trainer keeps between steps: memory, captured graphs, and how far the loss scale had to come down."""

    def __init__(self) -> None:
        self._memory: StepMemory | None = None
        self._layout: tuple[Any, ...] = ()
        self._graphs: OrderedDict[tuple[Any, ...], torch.cuda.CUDAGraph | None] = OrderedDict()
        self._pool: Any = None
        self.halvings = 0
        self.n_replayed = 0

    def step(
        self,
        field: FieldTensors,
        rays: Rays,
        jitter: Tensor,
        target: Tensor,
        background: Tensor,
        occupancy: Occupancy,
        options: StepOptions,
        max_seen: int,
    ) -> StepDone:
        """Do a step; see `kernels.field_step`. A step whose gradients overflow is done again at a smaller scale."""
        launch = launcher(field.table.device)
        memory = self.memory_for(field, len(rays), max_seen, launch)
        memory.take(rays, jitter, target, background)
        while True:
            self._run(launch, memory, field, occupancy, options, len(rays))
            figures = memory.figures.tolist()
            if not figures[7] or self.halvings >= MAX_HALVINGS:
                break
            self.halvings += 1
            _log.info("gradients overflowed: loss scale / %d", 2**self.halvings)
        gradients = (memory.table_gradients, *memory.matrix_gradients(field))
        color_loss, mse, distortion = figures[:3]
        n_marched, n_unmarched, n_seen, n_unseen = (int(figure) for figure in figures[3:7])
        dropped = n_unmarched + n_unseen
        return StepDone(memory.loss, gradients, color_loss, mse, distortion, n_marched, n_seen, dropped)

    def _run(
        self, launch: Launcher, memory: StepMemory, field: FieldTensors, occupancy: Occupancy, options: StepOptions,
        n_rays: int,
    ) -> None:  # fmt: skip
        scale = loss_scale_for(n_rays, self.halvings)

        def queue() -> None:
            memory.half.fill(launch, field)
            queue_step(launch, memory, occupancy, options, n_rays, scale, deterministic=options.deterministic)

        addresses = tuple(tensor.data_ptr() for tensor in (*field.tensors, occupancy.bits))
        self.run_captured((n_rays, scale, options, occupancy.grid_size, addresses), queue, launch.device)

    def run_captured(self, key: tuple[Any, ...], queue: Callable[[], None], device: torch.device) -> None:
        """Queue work: as it is the first time it is met, captured the second time, as one launch from then on."""
        if device.type != "cuda":
            queue()
            return
        if key not in self._graphs:
            self._graphs[key] = None
            queue()
        else:
            graph = self._graphs[key]
            if graph is None:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                graph = self._graphs[key] = captured(queue, self._pool)
            graph.replay()
            self.n_replayed += 1
        self._graphs.move_to_end(key)
        while len(self._graphs) > KEPT_GRAPHS:
            self._graphs.popitem(last=False)

    def memory_for(self, field: FieldTensors, n_rays: int, n_seen: int, launch: Launcher) -> StepMemory:
        """Memory for so many rays and seen samples; what there is, where it fits the field and is large enough."""
        layout = (field.layout, tuple(t.shape for t in field.tensors), field.aabb_scale, field.table.device)
        old = self._memory.room if self._memory is not None and self._layout == layout else Room(0, 0)
        if n_rays > old.n_rays or n_seen != old.n_seen or self._memory is None:
            room = Room(max(_MIN_RAYS, 1 << (n_rays - 1).bit_length() if n_rays else 1, old.n_rays), n_seen)
            self._graphs.clear()  # they write to the old memory
            self._memory, self._layout = None, layout
            self._memory = StepMemory(field, room, launch.processors)
        return self._memory


def captured(queue: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """A CUDA graph of what `queue` queues; it must have run once before, so that all is compiled and loaded.

    Intermediate tensors lie in `pool`; graphs that share it must not run at the same time.
    """
    graph, stream, present = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(present)
    with torch.cuda.stream(stream):
        # Other threads may render meanwhile: what they do must not spoil the capture. (torch's own context manager
        # also collects garbage and gives memory back, which takes longer than many steps.)
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            queue()
        finally:
            graph.capture_end()
    present.wait_stream(stream)
    return graph
