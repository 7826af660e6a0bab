"""The paper's scene for augmented training: a coarse and a fine network, and a training batch in all its passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .. import kernels
from ..fields.mlp_field import MlpField
from ..rays import RayOutputs, Rays
from ..scenes.model import SceneFrame, SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .aug_balls import Deltas
from .aug_levels import REGULAR, Level, LevelOptions, Network, SamplingNoise, Stretch, moved_rays, render_levels
from .aug_settings import AugConfig
from .protocol import ParamGroup

PAPER_EPS = 1e-8
PAPER_BETAS = (0.9, 0.999)
LEVELS = {"depth": "zval", "points": "pts", "features": "feat", "raw": "raw"}
"""Keys that exist once per level, and the first part of their names in `aug_levels`."""
RENDER_CHUNK = 512
"""Rays at a time when rendering without gradients: activations of all their samples must fit the memory."""


class MlpScene(nn.Module):
    """Coarse and fine network of a scene; a third one, that only the adversary uses, in mode `official`.

    Args:
        config: Settings.
        meta: The capture.
        seed: Seed of the initial weights and of all random choices of the clean passes.
    """

    aabb: Tensor
    network_rotation: Tensor
    network_offset: Tensor
    network_scale: Tensor

    def __init__(self, config: AugConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        settings = config.mlp
        generator = torch.Generator().manual_seed(seed)
        self.config, self.generator = config, generator
        self.coarse = MlpField(settings.width, generator)
        self.fine = MlpField(settings.width, generator) if settings.fine_samples else None
        self.adversarial = MlpField(settings.width, generator) if config.mode == "official" else None
        self.register_buffer("aabb", meta.frame.aabb)
        self.register_buffer("network_rotation", torch.eye(3))
        self.register_buffer("network_offset", torch.zeros(3))
        self.register_buffer("network_scale", torch.ones(()))
        self.is_unbounded = meta.frame.aabb_scale > 1
        self.n_cameras = len(meta.cameras)
        self.pixel = 2 / float(meta.cameras.sizes.max())
        self.options = LevelOptions(settings.coarse_samples, settings.fine_samples)
        self.n_rays = settings.rays_per_batch

    @property
    def rendered(self) -> tuple[Network, Network]:
        """The two networks that are rendered; without fine samples one of them twice."""
        return self._placed(self.coarse), self._placed(self.fine or self.coarse)

    def place_networks(self, frame: SceneFrame) -> None:
        """Let the networks live in the capture's own frame, for weights that were trained there."""
        self.network_rotation.copy_(frame.rotation)
        self.network_offset.copy_(frame.translation)
        self.network_scale.fill_(frame.scale)

    def _placed(self, network: MlpField) -> Network:
        """A network in its own frame as a network in the training frame; density is per unit of length."""

        def ask(x: Tensor, d: Tensor, delta: Tensor | None) -> Tensor:
            raw = network(self._in_network(x), d @ self.network_rotation, delta)
            return torch.cat([raw[..., :3], raw[..., 3:] / self.network_scale], -1)

        return ask

    def _in_network(self, x: Tensor) -> Tensor:
        return ((x - self.network_offset) / self.network_scale) @ self.network_rotation

    def param_groups(self) -> list[ParamGroup]:
        """Everything at one rate."""
        return [ParamGroup("networks", tuple(self.parameters()), self.config.mlp.mlp_lr, PAPER_EPS, PAPER_BETAS)]

    def lr_factor(self, progress: float) -> float:
        """An exponential fall from the first step on."""
        return 10 ** (-self.config.mlp.mlp_lr_decades * progress)

    def disturbed_weights(self) -> list[nn.Parameter]:
        """The matrices that weight disturbance may change."""
        return [p for name, p in self.named_parameters() if name.endswith("weight")]

    def plain_losses(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """The losses of a step without adversary."""
        loss, mse = self.begin(rays, batch, step).clean()
        return {"color": loss, "mse": mse}

    def begin(self, rays: Rays, batch: PixelBatch, step: int) -> MlpBatch:
        """Draw what is random about a training batch."""
        clipped, is_hit = self.clipped(rays)
        n = len(rays)
        background = backgrounds(self.config.hash.background, n, self.generator)
        noise = SamplingNoise(
            torch.rand(n, self.options.n_coarse, generator=self.generator),
            torch.rand(n, self.options.n_fine, generator=self.generator) if self.options.n_fine else None,
        )
        target = batch.rgb
        if batch.alpha is not None:
            target = background + batch.alpha[:, None] * (target - background)
        return MlpBatch(self, clipped, is_hit, batch.cam_ids, target, background, noise, self._raw_noise(n))

    def fixed_batch(self, rays: Rays, cam_ids: Tensor, target: Tensor, background: Tensor) -> MlpBatch:
        """A batch without anything random, for evaluation."""
        clipped, is_hit = self.clipped(rays)
        return MlpBatch(self, clipped, is_hit, cam_ids, target, background, REGULAR, {})

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights."""
        return self._render(rays, self.rendered)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a copy of the weights."""
        coarse, fine = (self._placed(copy.deepcopy(network)) for network in (self.coarse, self.fine or self.coarse))
        return lambda rays: self._render(rays, (coarse, fine))

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density per scene unit at world positions, of the fine network."""
        network = self.fine or self.coarse
        with torch.no_grad():
            parts = [network.raw_density(self._in_network(part)).relu() for part in x.split(1 << 15)]
        return torch.cat(parts) / self.network_scale if parts else torch.zeros(0)

    def clipped(self, rays: Rays) -> tuple[Rays, Tensor]:
        """Rays cut to the scene box, and which of them meet it; the others get an empty stretch at `near`."""
        near = self.config.hash.near
        t_near, t_far = kernels.ray_aabb(rays.rays_o, rays.rays_d, self.aabb)
        t_min = torch.maximum(rays.t_min, t_near).clamp_min(near)
        t_max = torch.minimum(rays.t_max, t_far)
        is_hit = t_min < t_max
        t_min, t_max = torch.where(is_hit, t_min, near), torch.where(is_hit, t_max, 2 * near)
        return Rays(rays.rays_o, rays.rays_d, t_min, t_max), is_hit

    def after_step(self, step: int) -> None:
        """Nothing to keep up."""

    def warm_up(self) -> None:
        """Nothing to compile but the intersection with the box."""
        self.clipped(Rays(torch.zeros(1, 3), torch.eye(3)[:1], torch.zeros(1), torch.ones(1)))

    def stats(self) -> dict[str, float]:
        """Nothing worth logging."""
        return {}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """All tensors and the random state."""
        return {**super().state_dict(*args, **kwargs), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        own = dict(state)
        self.generator.set_state(own.pop("generator"))
        return super().load_state_dict(own, strict, assign)

    def _render(self, rays: Rays, networks: tuple[Network, Network]) -> RayOutputs:
        parts = []
        with torch.no_grad():
            for start in range(0, max(len(rays), 1), RENDER_CHUNK):
                part, is_hit = self.clipped(rays[start : start + RENDER_CHUNK])
                stretch = Stretch(part.t_min, part.t_max, self.is_unbounded)
                level = render_levels(networks, part.rays_o, part.rays_d, stretch, self.options)[1]
                parts.append((level.rgb * is_hit[:, None], level.depth * is_hit, level.alpha * is_hit))
        return RayOutputs(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _raw_noise(self, n: int) -> dict[str, Tensor]:
        """Noise on the raw density of both levels, as disturbances; empty where none is wanted."""
        if self.config.mlp.raw_noise == 0:
            return {}
        found = {}
        for key, m in (("raw_c", self.options.n_coarse), ("raw_f", self.options.n_total)):
            found[key] = torch.zeros(n, m, 4)
            found[key][..., 3].normal_(std=self.config.mlp.raw_noise, generator=self.generator)
        return found


@dataclass(frozen=True)
class MlpBatch:
    """One training batch: its rays, what they should show, and what was drawn for it."""

    scene: MlpScene
    rays: Rays
    is_hit: Tensor
    cam_ids: Int64[Tensor, " N"]
    target: Float[Tensor, "N 3"]
    background: Float[Tensor, "N 3"]
    noise: SamplingNoise
    raw_noise: Deltas

    @property
    def stretch(self) -> Stretch:
        """Where the rays are looked at."""
        return Stretch(self.rays.t_min, self.rays.t_max, self.scene.is_unbounded)

    def shapes(self, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of the deltas that the keys of the settings stand for."""
        n, options = len(self.rays), self.scene.options
        found: dict[str, tuple[int, ...]] = {}
        ends: dict[str, tuple[int, ...]] = {"depth": (), "points": (3,), "raw": (4,)}
        ends["features"] = (self.scene.config.mlp.width,)
        for key in keys:
            if key == "pose":
                found |= {"cam_r": (self.scene.n_cameras, 3), "cam_t": (self.scene.n_cameras, 3)}
            elif key == "rgb":
                found["rgb"] = (n, 3)
            else:
                counts = {"c": options.n_coarse} | ({"f": options.n_total} if options.n_fine else {})
                found |= {f"{LEVELS[key]}_{letter}": (n, m, *ends[key]) for letter, m in counts.items()}
        return found

    def unit(self, name: str) -> float | Tensor:
        """What a radius of 1 means for a delta."""
        if name == "cam_r":
            return torch.pi / 180
        if name == "cam_t":
            return 0.01
        if not name.startswith(("zval", "pts")):
            return 1.0
        options = self.scene.options
        half = self.stretch.half_spacing(options.n_coarse if name.endswith("c") else options.n_total)
        return half if name.startswith("zval") else half.clamp_max(self.scene.pixel)[..., None]

    def clean(self) -> tuple[Tensor, Tensor]:
        """The loss without disturbance, and the squared error of the rendered colour."""
        coarse, fine = self._levels(self.scene.rendered, self.raw_noise, self.noise, self.scene.options)
        mse = (self._shown(fine, self.background).detach() - self.target).square().mean()
        return self._loss(coarse, fine, self.background), mse

    def objective(self, deltas: Deltas, mix: float) -> tuple[Tensor, float, Tensor]:
        """See `aug.AugBatch`."""
        clean, mse = self.clean()
        disturbed = self.disturbed(deltas, for_weights=True)
        return (1 - mix) * clean + mix * disturbed, float(disturbed.detach()), mse

    def disturbed(self, deltas: Deltas, *, for_weights: bool) -> Tensor:
        """The loss under disturbance; `for_weights` keeps the graph to the weights, else only that to the deltas."""
        scene = self.scene
        networks, noise, options, background = scene.rendered, self.noise, scene.options, self.background
        if scene.adversarial is not None:
            networks, noise, background = (scene.adversarial,) * 2, REGULAR, torch.zeros_like(background)
            options = LevelOptions(options.n_coarse, options.n_fine, keeps_released_faults=True)
        if for_weights:
            return self._loss(*self._levels(networks, deltas, noise, options), background)
        with _Frozen(scene):
            return self._loss(*self._levels(networks, deltas, noise, options), background)

    def squared_error(self, deltas: Deltas) -> float:
        """Mean squared colour error of the fine level under disturbance."""
        with torch.no_grad():
            level = self._levels(self.scene.rendered, deltas, self.noise, self.scene.options)[1]
            return float((self._shown(level, self.background) - self.target).square().mean())

    def _levels(
        self, networks: tuple[Network, Network], deltas: Deltas, noise: SamplingNoise, options: LevelOptions
    ) -> tuple[Level, Level]:
        rays_o, rays_d = moved_rays(self.rays.rays_o, self.rays.rays_d, self.cam_ids, deltas)
        return render_levels(networks, rays_o, rays_d, self.stretch, options, deltas, noise)

    def _loss(self, coarse: Level, fine: Level, background: Tensor) -> Tensor:
        loss = (self._shown(fine, background) - self.target).square().mean()
        if fine is coarse:
            return loss
        return loss + (self._shown(coarse, background) - self.target).square().mean()

    def _shown(self, level: Level, background: Tensor) -> Tensor:
        shown = level.rgb + (1 - level.alpha[:, None]) * background
        return torch.where(self.is_hit[:, None], shown, background)


class _Frozen:
    """While active, the weights of a module take no part in gradients: the inner maximisation needs none of theirs."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def backgrounds(kind: str, n_rays: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Colour behind each ray in training."""
    if kind in ("white", "black"):
        return torch.full((n_rays, 3), float(kind == "white"))
    return torch.rand(n_rays, 3, generator=generator)
