"""Measurements behind `nsx bench`: every kernel against the plain reference, in one run, as ratios."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import kernels
from .cameras import Camera, Cameras
from .kernels import GridLayout, reference_fused
from .methods.aug import Aug
from .methods.aug_hash import HashScene
from .methods.aug_settings import KEYS, AugConfig
from .methods.ngp import Ngp, NgpConfig
from .progress import Progress, SilentProgress
from .rays import Rays
from .scenes.model import SceneFrame, SceneMeta, Split
from .scenes.pixel_sampler import PixelBatch

N_SAMPLES = 65536
REPEATS = 9
TRAINING_SECONDS = 20.0
LAYERS = ((24, 64, 16), (32, 64, 64, 3))


def bench_cpu(progress: Progress | None = None, *, seconds: float = TRAINING_SECONDS) -> dict[str, Any]:
    """Time grid, networks and the whole training step on the back ends `cpu` and `reference`, in turn.

    The step is that of a field trained for `seconds` on a striped ball, both back ends on equal rays and samples. Each
    ratio is the median over pairs of calls.

    Returns:
        `{"schema": 1, "ratios": {...}, "samples_per_s": ..., "trained_samples_per_s": ..., "rays_per_s": ...,
        "threads": ...}`; `samples_per_s` counts marched samples.
    """
    progress = progress or SilentProgress()
    progress.stage("kernels", 2)
    ratios = {"grid_fwd_bwd": _median_ratio(_grid_call)}
    progress.advance(1, f"hash grid {ratios['grid_fwd_bwd']:.1f}x")
    ratios["mlp_fwd_bwd"] = _median_ratio(_mlp_call)
    progress.advance(2, f"networks {ratios['mlp_fwd_bwd']:.1f}x")
    progress.stage("training a ball", int(seconds))
    trained = _train_ball(seconds, progress)
    progress.stage("training step", 1)
    ratios["train_step"] = _step_ratio(trained.method)
    progress.advance(1, f"{ratios['train_step']:.1f}x")
    return {
        "schema": 1,
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "samples_per_s": round(trained.marched_per_s),
        "trained_samples_per_s": round(trained.seen_per_s),
        "rays_per_s": round(trained.rays_per_s),
        "threads": torch.get_num_threads(),
    }


def bench_aug(progress: Progress | None = None, *, seconds: float = TRAINING_SECONDS) -> dict[str, Any]:
    """Time steps of augmented training of the fast field against its plain fused step, on equal rays and weights.

    Returns:
        `{"schema": 1, "ratios": {"augmented_step": ..., "ascent_iteration": ...}, "plain_step_ms": ...,
        "threads": ...}`: a whole step with one ascent iteration over all keys (search, clean and disturbed pass,
        optimiser), and the iteration alone, both over a plain step; medians over rounds in which each kind of step is
        timed once.
    """
    progress = progress or SilentProgress()
    progress.stage("training a ball", int(seconds))
    trained = _train_ball(seconds, progress).method
    rays, batch = _ball_batch(ball_meta().cameras, trained.n_rays, torch.Generator().manual_seed(1))
    keys = ",".join(key for key in KEYS if key != "weights")
    every_step = AugConfig(
        field="hash", hash=trained.config, keys=keys, adversary_from=0, adversary_every=1, correct_poses=0.0
    )
    steps = {
        "plain": _aug_step(trained, replace(every_step, mix=0.0), rays, batch),
        "still": _aug_step(trained, replace(every_step, iterations="0"), rays, batch),
        "moved": _aug_step(trained, every_step, rays, batch),
    }
    progress.stage("training steps", 2 * REPEATS)
    rounds = []
    for done in range(2 * REPEATS):
        rounds.append({name: _seconds(step) for name, step in steps.items()})
        progress.advance(done + 1)
    whole = sorted(r["moved"] / r["plain"] for r in rounds[2:])
    alone = sorted((r["moved"] - r["still"]) / r["plain"] for r in rounds[2:])
    plain = sorted(r["plain"] for r in rounds[2:])
    middle = len(whole) // 2
    ratios = {"augmented_step": round(whole[middle], 2), "ascent_iteration": round(alone[middle], 2)}
    plain_ms = round(1e3 * plain[middle], 1)
    return {"schema": 1, "ratios": ratios, "plain_step_ms": plain_ms, "threads": torch.get_num_threads()}


def ball_training(seconds: float) -> tuple[Ngp, Callable[[], None]]:
    """The fast field trained on the striped ball for a while, and a function that trains it one more step."""
    trained = _train_ball(seconds, SilentProgress()).method
    optimizer, generator = _optimizer(trained), torch.Generator().manual_seed(2)
    cameras, count = ball_meta().cameras, iter(range(10**6, 10**9))

    def step() -> None:
        _one_step(trained, optimizer, *_ball_batch(cameras, trained.n_rays, generator), next(count))

    return trained, step


def _aug_step(trained: Ngp, config: AugConfig, rays: Rays, batch: PixelBatch) -> Callable[[], None]:
    """A training step of a copy of a trained field, at the full number of samples."""
    twin = Aug(config, ball_meta(), seed=0)
    assert isinstance(twin.scene, HashScene)
    twin.scene.adopt(trained)
    optimizer = _optimizer(twin)
    return lambda: _one_step(twin, optimizer, rays, batch, config.hash.coarse_steps)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _median_ratio(make: Callable[[str], Callable[[], object]]) -> float:
    """Reference time over CPU time, median over alternating calls after a warm-up."""
    fast, plain = make("cpu"), make("reference")
    fast(), plain()
    pairs = [(_best(plain), _best(fast)) for _ in range(REPEATS)]
    return sorted(slow / quick for slow, quick in pairs)[REPEATS // 2]


def _best(call: Callable[[], object]) -> float:
    """The quicker of two calls: the first one after the other side finds the caches full of its data."""
    return min(_seconds(call) for _ in range(2))


def _coherent_positions(generator: torch.Generator) -> Tensor:
    """Positions as training has them: short runs along rays."""
    starts = 0.1 + 0.8 * torch.rand(N_SAMPLES // 8, 1, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(N_SAMPLES // 8, 1, 3, generator=generator), dim=-1)
    return (starts + torch.arange(8)[:, None] / 256 * directions).clamp(0, 1).reshape(-1, 3)


def _grid_call(backend: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    config = NgpConfig()
    layout = GridLayout(config.n_levels, 2, config.log2_table, config.base_resolution, config.finest_resolution)
    x = _coherent_positions(generator)
    table = torch.randn(layout.n_rows, 2, generator=generator).requires_grad_()
    cotangent = torch.randn(N_SAMPLES, layout.n_outputs, generator=generator)

    def call() -> None:
        table.grad = None
        kernels.hash_encode(x, table, layout, backend=backend).backward(cotangent)

    return call


def _mlp_call(backend: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    jobs = []
    for widths in LAYERS:
        weights = tuple(
            torch.randn(a, b, generator=generator).mul_(math.sqrt(2 / a)).requires_grad_()
            for a, b in zip(widths, widths[1:], strict=False)
        )
        x = torch.randn(N_SAMPLES, widths[0], generator=generator).requires_grad_()
        jobs.append((x, weights, torch.randn(N_SAMPLES, widths[-1], generator=generator)))

    def call() -> None:
        for x, weights, cotangent in jobs:
            for tensor in (x, *weights):
                tensor.grad = None
            kernels.mlp(x, weights, backend=backend).backward(cotangent)

    return call


@dataclass
class _Trained:
    method: Ngp
    marched_per_s: float
    seen_per_s: float
    rays_per_s: float


def ball_meta() -> SceneMeta:
    """Cameras around the origin; the pictures are computed, not stored."""
    cameras = []
    for i in range(24):
        angle = 2.4 * i
        height = 1 - 2 * (i + 0.5) / 24
        radius = math.sqrt(1 - height * height)
        forward = -torch.tensor([radius * math.cos(angle), radius * math.sin(angle), height], dtype=torch.float64)
        right = torch.nn.functional.normalize(
            torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)), dim=0
        )
        down = torch.linalg.cross(forward, right)
        c2w = torch.stack([right, down, forward, -1.3 * forward], 1)
        cameras.append(Camera.perspective(400, 400, 40.0, c2w))
    everything = tuple(range(len(cameras)))
    names = tuple(f"{i:02d}.png" for i in everything)
    return SceneMeta(
        "ball", "computed", Cameras(cameras), names, Split(everything, (), ()), SceneFrame.identity(), has_alpha=True
    )


def _ball_batch(cameras: Cameras, n_rays: int, generator: torch.Generator) -> tuple[Rays, PixelBatch]:
    """Random pixels of a striped ball of radius 0.3."""
    cam_ids = torch.randint(len(cameras), (n_rays,), generator=generator)
    uv = 400 * torch.rand(n_rays, 2, generator=generator)
    rays = cameras.rays_through(cam_ids, uv)
    rgb, alpha = ball_colors(rays)
    return rays, PixelBatch(cam_ids, uv, rgb, alpha)


def ball_colors(rays: Rays) -> tuple[Tensor, Tensor]:
    """Colours and opacities of the ball where rays meet it."""
    along = -(rays.rays_o * rays.rays_d).sum(-1)
    inside = 0.09 - (rays.rays_o + along[:, None] * rays.rays_d).square().sum(-1)
    hit = rays.rays_o + (along - inside.clamp_min(0).sqrt())[:, None] * rays.rays_d
    return 0.5 + 0.5 * torch.sin(60 * hit + torch.tensor([0.0, 2.0, 4.0])), (inside > 0).float()


def _train_ball(seconds: float, progress: Progress) -> _Trained:
    generator = torch.Generator().manual_seed(0)
    meta = ball_meta()
    method = Ngp(NgpConfig(), meta, seed=0)
    optimizer = _optimizer(method)
    trained, step, spent, counts = _Trained(method, 0, 0, 0), 0, 0.0, [0.0, 0.0, 0.0]
    _one_step(method, optimizer, *_ball_batch(meta.cameras, 256, generator), 0)  # compiles
    while spent < seconds:
        rays, batch = _ball_batch(meta.cameras, method.n_rays, generator)
        began = time.perf_counter()
        _one_step(method, optimizer, rays, batch, step)
        spent += time.perf_counter() - began
        step += 1
        if spent > seconds / 2:
            stats = method.stats_of_last_step
            for k, value in enumerate(
                (stats["marched_per_ray"] * len(rays), stats["seen_per_ray"] * len(rays), len(rays))
            ):
                counts[k] += value
        progress.advance(int(spent))
    trained.marched_per_s, trained.seen_per_s, trained.rays_per_s = (2 * count / seconds for count in counts)
    return trained


def _optimizer(method: Ngp | Aug) -> torch.optim.Adam:
    groups = [{"params": list(g.params), "lr": g.lr, "betas": g.betas, "eps": g.eps} for g in method.param_groups()]
    return torch.optim.Adam(groups, fused=True)


def _one_step(method: Ngp | Aug, optimizer: torch.optim.Adam, rays: Rays, batch: PixelBatch, step: int) -> None:
    method.train_step(rays, batch, step)["color"].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    method.after_step(step + 1)


def _step_ratio(method: Ngp) -> float:
    """Whole steps (density pass, losses, backward, Adam) of equal fields on equal rays.

    The reference is given the samples that the fast step finds worth seeing, at no cost: in plain torch marching walks
    through empty space and behind surfaces, which would only flatter the ratio.
    """
    generator = torch.Generator().manual_seed(1)
    rays, batch = _ball_batch(ball_meta().cameras, method.n_rays, generator)
    rays = method.clipped(rays)
    background = torch.rand(len(rays), 3, generator=generator)
    assert batch.alpha is not None
    target = background + batch.alpha[:, None] * (batch.rgb - background)
    jitter = torch.rand(len(rays), generator=generator)
    occupancy = method.occupancy.occupancy()
    marched = kernels.march(rays, occupancy.bits, occupancy.grid_size, method.marching, jitter)
    seen = reference_fused.seen_samples(method.field.tensors(), rays, marched, method.options.stop_transmittance)
    state = method.state_dict()

    def make(backend: str) -> Callable[[], object]:
        twin = Ngp(method.config, ball_meta(), seed=0)
        twin.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        optimizer, space, room = _optimizer(twin), kernels.make_space("cpu"), 2 * method.config.samples_per_batch

        def step() -> None:
            arguments = (twin.field.tensors(), rays, jitter, target, background, occupancy, twin.options, room)
            if backend == "reference":
                result = reference_fused.field_step(*arguments, given=seen)
            else:
                result = kernels.field_step(*arguments, space, backend=backend)
            result.loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return _median_ratio(make)
