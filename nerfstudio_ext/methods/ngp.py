"""The fast field as a method: hash grid and small networks, occupancy grid, fused training step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import kernels
from ..errors import UserError
from ..fields.hash_field import HashField
from ..fields.occupancy import OccupancyGrid
from ..kernels import GridLayout, Marching, StepOptions
from ..rays import RayOutputs, Rays, Samples
from ..renderer import RayLayer, rays_at_a_time
from ..scenes.model import SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .protocol import ParamGroup, Share

RAYS_RANGE = (256, 16384)
RAYS_PER_CALL = 2048
"""Some 5 ms of work on two cores: a new camera interrupts a picture between two calls."""
CUDA_RAYS_PER_CALL = 1 << 22
"""Whole pictures: a new camera interrupts the kernel itself."""

_COUNTS = (
    "n_levels", "log2_table", "base_resolution", "finest_resolution", "hidden", "color_hidden", "grid_size",
    "steps_per_unit", "samples_per_batch",
)  # fmt: skip


@dataclass(frozen=True)
class NgpConfig:
    """Settings of the fast field; the defaults suit two CPU cores."""

    n_levels: int = 12
    """Levels of the hash grid."""
    log2_table: int = 17
    """Logarithm of the rows per level: 17 stays in a CPU's cache, 19 holds more detail where memory is fast."""
    base_resolution: int = 16
    """Cells per axis of the coarsest level, over the whole scene box."""
    finest_resolution: int = 1024
    """Cells per axis of the finest level within the inner cube; larger boxes get proportionally more."""
    hidden: int = 64
    """Width of the density network."""
    color_hidden: int = 64
    """Width of the colour network."""
    grid_size: int = 128
    """Cells per axis of each occupancy cube."""
    steps_per_unit: int = 256
    """Marching steps per edge of the inner cube."""
    cone_angle: float | None = None
    """Growth of the marching step with distance; by default 0 for a bounded scene and 1/128 for a larger one."""
    near: float = 0.05
    """Nothing nearer to a camera than this is marched, in edges of the inner cube."""
    coarse_steps: int = 384
    """Training begins with marching steps eight times as long and halves them three times in so many steps."""
    samples_per_batch: int = 32768
    """Seen samples a training batch aims at; the number of rays follows."""
    huber: float = 0.1
    """Where the colour loss turns from squared to linear; 0 keeps it squared."""
    distortion: float | None = None
    """Weight of the distortion loss against fog; by default 0 for a bounded scene and 0.003 for a larger one."""
    stop_transmittance: float | None = None
    """Samples behind a lower transmittance are not trained; by default 1e-4 for a bounded scene and 0.01 for a larger
    one, where solid surfaces then take half the samples (+0.6 dB in a room after a minute)."""
    near_fade: float | None = None
    """Distance below which gradients fade, against floaters in front of cameras; by default 0 (off) for a bounded scene
    and for a larger one half the cameras' mean distance from the centre, which was worth 4 dB in a room."""
    lr: float = 1e-2
    """Peak learning rate of grid and networks."""
    lr_flat: float = 0.4
    """Share of the training at the peak rate; then it falls exponentially."""
    lr_decades: float = 1.5
    """Decades the rate falls by."""
    background: Literal["auto", "random", "white", "black"] = "auto"
    """Colour behind the rays in training: random keeps empty space transparent."""
    backend: str = "auto"
    """Kernel back end: auto, reference, cpu or cuda."""
    deterministic: bool = False
    """Bit-equal training on CUDA devices too, at some cost; on the CPU it always is."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{getattr(self, name)} is below 1", where=flag, fix="Choose a larger value")

    def for_device(self, device: torch.device) -> NgpConfig:
        """These settings with those at their default, which suits two CPU cores, chosen for a device instead."""
        if device.type != "cuda":
            return self
        default = NgpConfig()
        better: dict[str, Any] = {
            "n_levels": 16,
            "log2_table": 19,
            "finest_resolution": 2048,
            "samples_per_batch": 1 << 18,
        }
        return dataclasses.replace(
            self, **{name: value for name, value in better.items() if getattr(self, name) == getattr(default, name)}
        )


@dataclass(frozen=True)
class StepInputs:
    """A training batch as the kernels take it.

    Attributes:
        rays: Cut to the scene box.
        jitter: Where on each ray sampling begins.
        target: Colours the rays should have, on `background`.
        background: Colour behind each ray.
        options: Lattice and losses of this step.
    """

    rays: Rays
    jitter: Tensor
    target: Tensor
    background: Tensor
    options: StepOptions


class Ngp(nn.Module):
    """A `Method`: trains and renders the fast field; see `methods.protocol`.

    Args:
        config: Settings.
        meta: The capture: its box and its training cameras.
        seed: Seed of the weights and of all random choices.
    """

    aabb: Tensor

    def __init__(self, config: NgpConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        scale = meta.frame.aabb_scale
        layout = GridLayout(
            config.n_levels, 2, config.log2_table, config.base_resolution, config.finest_resolution * scale
        )
        self.field = HashField(layout, config.hidden, config.color_hidden, scale, self.generator)
        step = 1 / config.steps_per_unit
        cone = config.cone_angle if config.cone_angle is not None else (0.0 if scale == 1 else 1 / 128)
        self.marching = Marching(step, cone, scale / 32 if cone else step, config.near)
        self.occupancy = OccupancyGrid(int(math.log2(scale)) + 1, config.grid_size, step)
        self.occupancy.restrict_to_views(meta.training_cameras().select(meta.split.train), config.near)
        self.register_buffer("aabb", meta.frame.aabb)
        distortion = config.distortion if config.distortion is not None else (0.0 if scale == 1 else 0.003)
        near_fade = config.near_fade if config.near_fade is not None else 0.5 * _mean_distance(meta) * (scale > 1)
        stop = config.stop_transmittance if config.stop_transmittance is not None else (1e-4 if scale == 1 else 1e-2)
        self.options = StepOptions(self.marching, stop, config.huber, distortion, near_fade, config.deterministic)
        self.n_rays = RAYS_RANGE[0]
        self._space: object | None = None
        self._share: Share | None = None
        self._stats: dict[str, float] = {}

    def param_groups(self) -> list[ParamGroup]:
        """One group for the grid, one for the networks."""
        return [
            ParamGroup("grid", (self.field.table,), self.config.lr, eps=1e-10),
            ParamGroup("networks", self.field.networks, self.config.lr, eps=1e-10),
        ]

    def lr_factor(self, progress: float) -> float:
        """Flat, then an exponential fall."""
        falling = max(0.0, (progress - self.config.lr_flat) / max(1 - self.config.lr_flat, 1e-9))
        return 10 ** (-self.config.lr_decades * min(falling, 1.0))

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """Loss of one batch; see `Method.train_step`."""
        return self.losses_of(self.inputs(rays, batch, step))

    def losses_of(self, given: StepInputs) -> dict[str, Tensor]:
        """`train_step` for a batch whose random part is drawn."""
        if self._space is None:
            self._space = kernels.make_space(self.field.table.device)
        share, n_rays, room = self._share, len(given.rays), 2 * self.config.samples_per_batch
        if share is not None:
            n_rays, room = self.n_rays, share.n_at_most(room)
        result = kernels.field_step(
            self.field.tensors(), given.rays, given.jitter, given.target, given.background, self.occupancy.occupancy(),
            given.options, room, self._space, backend=self.config.backend,
        )  # fmt: skip
        counts = (result.n_marched, result.n_seen, result.n_dropped)
        if share is not None:
            counts = tuple(int(n) for n in share.sum(counts))  # type: ignore[assignment]
        self.plan_next(*counts, n_rays)
        return {"color": result.loss, "mse": torch.tensor(result.mse)}

    def take_share(self, share: Share) -> None:
        """See `CanShare`."""
        self._share = share

    def inputs(self, rays: Rays, batch: PixelBatch, step: int) -> StepInputs:
        """Draw what is random about a batch: colours behind the rays, and where on them sampling begins."""
        n_rays, part = len(rays), slice(None)
        if self._share is not None:
            n_rays = self.n_rays
            part = self._share.part(n_rays)
        # Drawn on the CPU wherever the batch is: a run then goes on alike on either device.
        background = _backgrounds(self.config.background, n_rays, self.generator)[part].to(rays.rays_o.device)
        target = batch.rgb
        if batch.alpha is not None:
            target = background + batch.alpha[:, None] * (target - background)
        jitter = torch.rand(n_rays, generator=self.generator)[part].to(rays.rays_o.device)
        return StepInputs(self.clipped(rays), jitter, target, background, self._options_at(step))

    def after_step(self, step: int) -> None:
        """Refresh the occupancy where its schedule says so."""
        self.occupancy.update(step, self._shared_density, self.generator)

    @rays_at_a_time(RAYS_PER_CALL, cuda=CUDA_RAYS_PER_CALL)
    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights."""
        return _render(self.field.tensors(), self.occupancy.occupancy(), self.marching, self.clipped(rays))

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a copy of weights and occupancy."""
        live = self.field.tensors()
        names = ("table", "d1", "d2", "c1", "c2", "c3")
        field = dataclasses.replace(live, **{name: getattr(live, name).detach().clone() for name in names})
        occupancy = kernels.Occupancy(self.occupancy.bits.clone(), self.occupancy.grid_size)

        @rays_at_a_time(RAYS_PER_CALL, cuda=CUDA_RAYS_PER_CALL)
        def render(rays: Rays) -> RayOutputs:
            return _render(field, occupancy, self.marching, self.clipped(rays))

        return render

    def layers(self) -> Mapping[str, RayLayer]:
        """What marching does: samples per ray, and how much of each ray lies in occupied cells (scene units)."""
        bits, grid_size = self.occupancy.bits.clone(), self.occupancy.grid_size

        def marched(rays: Rays) -> Samples:
            rays = self.clipped(rays)
            return kernels.march(rays, bits, grid_size, self.marching, torch.full_like(rays.t_min, 0.5))

        def occupied(rays: Rays) -> Tensor:
            samples = marched(rays)
            lengths = samples.t_ends - samples.t_starts
            return torch.zeros_like(rays.t_min).index_add_(0, samples.ray_indices, lengths)

        return {"sample cost": lambda rays: marched(rays).packed_info[:, 1].float(), "occupancy": occupied}

    def warm_up(self) -> None:
        """Compile or load the kernels of training, rendering and occupancy; changes no state."""
        rays = Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1), torch.full((1,), torch.inf))
        rays, white = rays.to(self.aabb.device), torch.ones_like(self.aabb[None, :3])
        kernels.field_step(
            self.field.tensors(), self.clipped(rays), torch.zeros_like(white[:, 0]), white, white,
            self.occupancy.occupancy(), self.options, 64, backend=self.config.backend,
        )  # fmt: skip
        self.render_rays(rays)
        self.density(white)
        self.occupancy.warm_up()

    def density(self, x: Tensor) -> Tensor:
        """Density per scene unit at world positions."""
        return self.field.density(x)

    def stats(self) -> Mapping[str, float]:
        """Occupied share and samples per ray."""
        return {"occupancy": self.occupancy.share, **self._stats}

    @property
    def stats_of_last_step(self) -> Mapping[str, float]:
        """Marched and seen samples per ray and dropped rays of the last batch; costs nothing."""
        return self._stats

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """All tensors, the random state and the present batch size."""
        state = super().state_dict(*args, **kwargs)
        state["generator"] = self.generator.get_state()
        state["n_rays"] = torch.tensor(self.n_rays)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        own = dict(state)
        self.generator.set_state(own.pop("generator"))
        self.n_rays = int(own.pop("n_rays"))
        return super().load_state_dict(own, strict, assign)

    def _shared_density(self, x: Tensor) -> Tensor:
        """`density`, evaluated in parts where there are several processes."""
        share = self._share
        return self.density(x) if share is None else share.gather(self.density(x[share.part(len(x))]), len(x))

    def _options_at(self, step: int) -> StepOptions:
        """Long marching steps while the field is fog: more rays a batch teach it more than samples along them."""
        progress = step / max(self.config.coarse_steps, 1)
        factor = 2 ** max(0, math.ceil(3 * (1 - progress)))
        if factor == 1:
            return self.options
        m = self.marching
        coarse = Marching(m.step * factor, m.cone_angle * factor, max(m.max_step, m.step * factor), m.near)
        # Distortion in a fog pulls it to the cameras: it waits for the surfaces.
        return dataclasses.replace(self.options, marching=coarse, distortion=0.0)

    def clipped(self, rays: Rays) -> Rays:
        """Rays cut to the scene box and to the near distance."""
        t_near, t_far = kernels.ray_aabb(rays.rays_o, rays.rays_d, self.aabb)
        t_min = torch.maximum(rays.t_min, t_near).clamp_min(self.marching.near)
        return Rays(rays.rays_o, rays.rays_d, t_min, torch.minimum(rays.t_max, t_far))

    def plan_next(self, n_marched: int, n_seen: int, n_dropped: int, n_rays: int) -> None:
        """Choose the size of the next batch from the samples of this one."""
        seen = max(n_seen, 1) / max(n_rays - n_dropped, 1)
        wanted = self.config.samples_per_batch / seen
        # Half way each step: the count swings when the occupancy is refreshed.
        most = max(RAYS_RANGE[1], self.config.samples_per_batch // 2)
        self.n_rays = int(min(max(math.sqrt(self.n_rays * wanted), RAYS_RANGE[0]), most))
        if self.aabb.device.type == "cuda":
            self.n_rays = kernels.round_batch(self.n_rays)
        self._stats = {
            "marched_per_ray": n_marched / max(n_rays, 1),
            "seen_per_ray": seen,
            "dropped_rays": float(n_dropped),
        }


def _backgrounds(kind: str, n_rays: int, generator: torch.Generator) -> Tensor:
    """The colour behind each ray of a batch."""
    if kind in ("white", "black"):
        return torch.full((n_rays, 3), float(kind == "white"))
    return torch.rand(n_rays, 3, generator=generator)


def _mean_distance(meta: SceneMeta) -> float:
    """Mean distance of the training cameras from the centre of the scene."""
    return float(meta.training_cameras().c2w[list(meta.split.train), :, 3].norm(dim=-1).mean())


def _render(field: kernels.FieldTensors, occupancy: kernels.Occupancy, marching: Marching, rays: Rays) -> RayOutputs:
    return kernels.render_field(field, rays, occupancy, marching)
