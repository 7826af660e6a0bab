"""Every kernel alone: time, registers and share of the step, at several batch sizes, with a warm and a cold cache."""

from __future__ import annotations

import statistics
from collections import defaultdict
from ctypes import Structure
from typing import Any

import torch

from .. import cuda_launch, round_batch
from ..cuda_launch import Launcher
from ..cuda_sizes import FieldSizes
from ..cuda_train import FusedTrainer
from .scene import LAYOUTS, OPTIONS, Batch, OccupancyState, Pictures, draw, make_field
from .timing import FLUSH_BYTES

_ROUNDS = 30


class TimedLauncher(Launcher):
    """Puts an event before and after every launch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)

    def __call__(
        self, name: str, arguments: Structure, n: int | None = None, shape: FieldSizes | None = None, *,
        deterministic: bool = False,
    ) -> None:  # fmt: skip
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        super().__call__(name, arguments, n, shape, deterministic=deterministic)
        end.record()
        self.events[name].append((begin, end))

    def medians(self, rounds: int) -> dict[str, float]:
        """Milliseconds of each kernel per step, then forget."""
        torch.cuda.synchronize()
        found = {}
        for name, pairs in self.events.items():
            times = [begin.elapsed_time(end) for begin, end in pairs]
            per_step = [sum(part) for part in zip(*[iter(times)] * max(1, len(times) // rounds), strict=False)]
            found[name] = statistics.median(per_step)
        self.events.clear()
        return found


def time_kernels(pictures: Pictures, exponents: tuple[int, ...] = (16, 18, 20)) -> dict[str, Any]:
    """Times per kernel of a step that sees 2^16, 2^18 and 2^20 samples, with the full preset and the fast one."""
    device = torch.device("cuda", torch.cuda.current_device())
    timed = TimedLauncher(device)
    plain = cuda_launch._launchers.get(device)
    cuda_launch._launchers[device] = timed
    try:
        found: dict[str, Any] = {}
        for name in LAYOUTS:
            for exponent in exponents if name == "L16F2" else (18,):
                found[f"{name} 2^{exponent}"] = _time_step(name, 1 << exponent, pictures, timed)
        return found
    finally:
        del cuda_launch._launchers[device]
        if plain is not None:
            cuda_launch._launchers[device] = plain


def _time_step(name: str, n_samples: int, pictures: Pictures, timed: TimedLauncher) -> dict[str, Any]:
    field, state = make_field(LAYOUTS[name], "cuda"), OccupancyState("cuda")
    generator = torch.Generator(device="cuda").manual_seed(0)
    n_rays = max(256, n_samples // 256)  # an untrained field lets every sample be seen, about 300 on a ray
    trainer = FusedTrainer(field, state.occupancy(), OPTIONS, 2 * n_samples, 4 * n_rays, use_graphs=False)
    n_rays = _rays_for(trainer, pictures, n_samples, n_rays, generator)
    batch = draw(pictures, n_rays, generator)
    junk = torch.empty(FLUSH_BYTES // 4, device="cuda")
    times = {}
    for kind in ("hot", "cold"):
        for round_ in range(_ROUNDS + 5):
            if round_ == 5:
                torch.cuda.synchronize()
                timed.events.clear()
            if kind == "cold":
                junk.zero_()
            _step(trainer, batch)
        times[kind] = timed.medians(_ROUNDS)
    seen = trainer.look()
    return {
        "rays": n_rays, "marched": seen.n_marched, "seen": seen.n_seen,
        "ms_hot": times["hot"], "ms_cold": times["cold"], "sum_ms_hot": sum(times["hot"].values()),
    }  # fmt: skip


def _rays_for(
    trainer: FusedTrainer, pictures: Pictures, n_samples: int, n_rays: int, generator: torch.Generator
) -> int:
    """Rays whose samples come near a number."""
    _step(trainer, draw(pictures, n_rays, generator))
    per_ray = max(1.0, trainer.look().n_seen / n_rays)
    return round_batch(int(min(max(n_samples / per_ray, 256), 4 * n_rays)))


def _step(trainer: FusedTrainer, batch: Batch) -> None:
    trainer.step(batch.rays, batch.jitter, batch.target, batch.background, 0.0)
