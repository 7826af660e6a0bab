"""Training by the clock: ours and the baseline on the same photos, batches, rates and refreshes; PSNR over time."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch

from .. import FieldTensors, round_batch
from ..cuda_train import FusedTrainer
from .baselines import Renderer, Sampler, TorchField
from .rendering import render_fused_picture
from .scene import LAYOUTS, OPTIONS, OccupancyState, Pictures, draw, make_field
from .timing import milliseconds

SAMPLES = 1 << 18
RATE, DECADES, FLAT = 1e-2, 1.5, 0.4
REFRESH_EVERY = 16
LOOK_EVERY = 16
MARKS = (3.0, 6.0, 10.0, 20.0, 40.0, 60.0)
RAYS = (1024, 1 << 17)


def rate_at(progress: float) -> float:
    """Learning rate at a share 0..1 of the planned time: flat, then an exponential fall."""
    return RATE * 10 ** (-DECADES * max(0.0, (progress - FLAT) / (1 - FLAT)))


class Ours:
    """Trains with the fused kernels.

    Args:
        pictures: Training photos.
        layout: A key of `LAYOUTS`.
        use_graphs: Launch steps as CUDA graphs.
    """

    def __init__(self, pictures: Pictures, layout: str = "L16F2", *, use_graphs: bool = True) -> None:
        self.pictures, self.state = pictures, OccupancyState("cuda")
        self.field = make_field(LAYOUTS[layout], "cuda")
        self.n_rays, self.n_steps, self.n_rays_done = 4096, 0, 0
        occupancy = self.state.occupancy()
        self.trainer = FusedTrainer(self.field, occupancy, OPTIONS, 2 * SAMPLES, RAYS[1], use_graphs=use_graphs)
        self._generator = torch.Generator(device="cuda").manual_seed(0)

    def step(self, progress: float) -> None:
        """One step; now and then a look at the counts and a refresh of the occupancy."""
        batch = draw(self.pictures, self.n_rays, self._generator)
        self.trainer.step(batch.rays, batch.jitter, batch.target, batch.background, rate_at(progress))
        self.n_steps += 1
        self.n_rays_done += self.n_rays
        if self.n_steps % LOOK_EVERY == 0:
            seen = self.trainer.look()
            self.n_rays = next_size(self.n_rays, seen.n_seen / max(self.n_rays - seen.n_dropped, 1))
        if self.n_steps % REFRESH_EVERY == 0:
            self.state.refresh(self.field, self.n_steps)

    def picture(self, pictures: Pictures, index: int) -> torch.Tensor:
        """A view of the field on white."""
        return render_fused_picture(self.field, self.state.occupancy(), pictures, index)


class Baseline:
    """Trains the same field in plain torch.

    Args:
        pictures: Training photos.
        sample: Where to look.
        use_compile: Run the field through `torch.compile`.
    """

    def __init__(self, pictures: Pictures, sample: Sampler, *, use_compile: bool = False) -> None:
        self.pictures, self.state = pictures, OccupancyState("cuda")
        self.module = TorchField(make_field(LAYOUTS["L16F2"], "cuda"))
        field: Any = torch.compile(self.module, dynamic=True) if use_compile else self.module
        if use_compile:
            field.density = torch.compile(self.module.density, dynamic=True)
        self.render = Renderer(field, sample, stop=1e-4)
        self.n_rays, self.n_steps, self.n_rays_done = 4096, 0, 0
        self._optimizer = torch.optim.Adam(self.module.parameters(), RATE, betas=(0.9, 0.99), eps=1e-10, fused=True)
        self._scaler = torch.amp.GradScaler("cuda", init_scale=128.0, growth_interval=2000)
        self._generator = torch.Generator(device="cuda").manual_seed(0)

    def step(self, progress: float) -> None:
        """One step, with the same schedule as ours."""
        batch = draw(self.pictures, self.n_rays, self._generator)
        rgb, alpha, n_seen = self.render(batch.rays, self.state.occupancy(), batch.jitter)
        predicted = rgb + (1 - alpha[:, None]) * batch.background
        loss = torch.nn.functional.huber_loss(predicted, batch.target, delta=OPTIONS.huber)
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(progress)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.n_steps += 1
        self.n_rays_done += self.n_rays
        if self.n_steps % LOOK_EVERY == 0:
            self.n_rays = next_size(self.n_rays, n_seen / self.n_rays)
        if self.n_steps % REFRESH_EVERY == 0:
            self.state.refresh(self._field(), self.n_steps)

    def _field(self) -> FieldTensors:
        names = ("table", "d1", "d2", "c1", "c2", "c3")
        table, d1, d2, c1, c2, c3 = (self.module.weights[name].detach() for name in names)
        return FieldTensors(LAYOUTS["L16F2"], table, d1, d2, c1, c2, c3, 1.0)

    def picture(self, pictures: Pictures, index: int) -> torch.Tensor:
        """A view of the field on white, by our renderer, so that only the training differs."""
        return render_fused_picture(self._field(), self.state.occupancy(), pictures, index)


def next_size(n_rays: int, seen_per_ray: float) -> int:
    """Rays of the next batches, so that about `SAMPLES` samples are seen."""
    wanted = SAMPLES / max(seen_per_ray, 0.5)
    return round_batch(int(min(max(math.sqrt(n_rays * wanted), RAYS[0]), RAYS[1])))


def psnr_of(trainer: Ours | Baseline, tests: Pictures, most: int = 8) -> float:
    """Mean PSNR on test photos."""
    stride = max(1, len(tests) // most)
    values = []
    for index in range(0, len(tests), stride)[:most]:
        error = (trainer.picture(tests, index).clamp(0, 1) - tests.picture(index)).square().mean()
        values.append(-10 * math.log10(max(float(error), 1e-10)))
    return statistics.fmean(values)


def train_by_clock(
    trainer: Ours | Baseline, tests: Pictures | None, seconds: float, marks: tuple[float, ...] = MARKS
) -> dict[str, Any]:
    """Train for some seconds; the clock stands still while test photos are looked at.

    Returns:
        `psnr` at the marks, steps, rays per second over the second half, and the time of a step then.
    """
    trainer.step(0.0)  # compiles
    torch.cuda.synchronize()
    spent, curve, left = 0.0, {}, [mark for mark in marks if mark <= seconds]
    half: tuple[float, int, int] | None = None
    while spent < seconds:
        began = time.perf_counter()
        for _ in range(LOOK_EVERY):
            trainer.step(min(1.0, spent / seconds))
        torch.cuda.synchronize()
        spent += time.perf_counter() - began
        if half is None and spent > seconds / 2:
            half = (spent, trainer.n_steps, trainer.n_rays_done)
        while tests is not None and left and spent >= left[0]:
            curve[str(left.pop(0))] = psnr_of(trainer, tests)
    since = half or (0.0, 0, 0)
    late = max(spent - since[0], 1e-6)
    return {
        "psnr": curve,
        "steps": trainer.n_steps,
        "rays_per_s": (trainer.n_rays_done - since[2]) / late,
        "ms_per_step": 1000 * late / max(trainer.n_steps - since[1], 1),
        "rays_per_batch": trainer.n_rays,
    }


def graph_against_eager(trained: Ours) -> dict[str, float]:
    """The same step as one graph and as single launches, in ms, on a trained field."""
    batch = draw(trained.pictures, trained.n_rays, torch.Generator(device="cuda").manual_seed(1))
    times = {}
    for name, use_graphs in (("graph_ms", True), ("eager_ms", False)):
        trained.trainer.use_graphs = use_graphs
        times[name], _ = milliseconds(
            lambda: trained.trainer.step(batch.rays, batch.jitter, batch.target, batch.background, 0.0), repeats=50
        )
    trained.trainer.use_graphs = True
    return {**times, "ratio": times["eager_ms"] / times["graph_ms"]}


def sooner(ours: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """How much sooner we have the PSNR that the baseline ends with; interpolated between the marks."""
    if not ours.get("psnr") or not baseline.get("psnr"):
        return {}
    end, goal = list(baseline["psnr"].items())[-1]
    before_time, before = 0.0, -math.inf
    for mark, value in ours["psnr"].items():
        if value >= goal:
            share = (goal - before) / (value - before) if math.isfinite(before) else 1.0
            reached = before_time + share * (float(mark) - before_time)
            return {"goal_db": goal, "baseline_s": float(end), "ours_s": reached, "ratio": float(end) / reached}
        before_time, before = float(mark), value
    return {"goal_db": goal, "baseline_s": float(end), "ours_s": None, "ratio": None}
