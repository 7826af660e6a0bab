"""Training of GNT across scenes: computed ones without end, and a share of real captures where some are given."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import TrainingFailed, UserError
from ..fields.epipolar import SourceCameras
from ..fields.gnt_fast import Options
from ..fields.gnt_weights import Architecture, GntModel
from ..methods.gnt_photos import Photos, photos_of_scene, source_cameras
from ..methods.gnt_render import DepthRange, GntRenderer, Sampling, pass_over, views_of
from ..methods.gnt_views import PLANS, SourcePlan, TrainingViews, choose_sources, flip_views, random_crop
from ..progress import Progress, SilentProgress
from ..rays import Rays
from ..renderer import RayRenderer
from ..scenes.model import Scene
from ..training.checkpoints import CheckpointNotSaved, list_checkpoints, load_checkpoint, save_checkpoint
from ..training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from .captures import VALIDATION_SEEDS, make_capture, make_capture_with_depths
from .gnt_start import start_sweeping

LOG = "log.jsonl"
_WARM_UP = 100
"""Steps over which the rate rises: the first gradients of a transformer are too large for Adam."""
_SECOND_MOMENT = 0.99
"""Adam's memory of squared gradients, short: scenes differ, and a training has thousands of steps, not hundreds of
thousands."""
_STARTING_BIAS = 2.0
"""Added before a ReLU and taken off after it: tokens lie well within, so that the layer hardly cuts them at first."""
_CLIP = 1.0
_SPREAD_SHARES = (0.7, 0.3, 0.0)
"""Of drawing from the nearest 1, 2, 3 times as many views as are used: computed scenes have few pictures, so that the
farthest of them share next to nothing with the target."""
_RANGE_JITTER = (0.8, 1.1, 0.95, 1.3)
"""Near and far are drawn within these factors: captures in use state them less exactly than computed ones."""


@dataclass(frozen=True)
class GntTraining:
    """Settings of a training across scenes."""

    steps: int = 2000
    """Steps in all; a step is one target picture with its sources. A later call may state more: the rate is the same
    until `falling_share`."""
    depth: int = 2
    """View and ray blocks."""
    width: int = 64
    """Channels of a token."""
    feature_width: int = 16
    """Channels of the feature network's first stage."""
    feature_blocks: tuple[int, int, int] = (1, 1, 1)
    """Residual blocks of its stages."""
    n_rays: int = 384
    """Rays per step with eight sources; fewer with more."""
    n_samples: int = 48
    """Samples per ray."""
    n_views: int = 8
    """Sources, give or take two."""
    side: int = 128
    """Longer side of the computed pictures, pixels."""
    views_per_scene: int = 20
    """Pictures per computed scene."""
    pool: int = 16
    """Scenes in play at a time."""
    steps_per_scene: int = 16
    """Steps after which the oldest scene makes room for a new one."""
    capture_share: float = 0.3
    """Share of the steps that look at real captures, where some are given."""
    max_side: int = 400
    """Pictures of real captures are reduced until no side is longer."""
    depth_share: float = 0.02
    """Weight of the cross entropy between the attention along a ray and the true distance, beside the mean squared
    error of colours; computed scenes know the distance."""
    lr: float = 0.0
    """Rate of the transformer; 0 leaves it as it begins. What is written there reads the features; all rates that were
    tried (5e-6 to 2e-4, also in shares of each weight) unlearned it faster than a few thousand steps can mend."""
    lr_features: float = 3e-4
    """Rate of the feature network."""
    falling_share: float = 0.4
    """Share of the steps at the end over which the rates fall to zero."""
    seed: int = 0
    """Of everything random."""
    steps_per_save: int = 500
    """Steps between checkpoints."""
    steps_per_check: int = 1000
    """Steps between looks at the validation scenes."""
    validation_scenes: int = 24
    """Computed scenes that training never sees."""

    def architecture(self) -> Architecture:
        """Sizes of the networks."""
        return Architecture(
            depth=self.depth, width=self.width, feature_width=self.feature_width, feature_blocks=self.feature_blocks
        )

    def rate_at(self, step: int) -> float:
        """Factor on the learning rates at a step."""
        left = (self.steps - step) / max(1.0, self.falling_share * self.steps)
        return min(1.0, max(left, 0.01)) * min(1.0, (step + 1) / _WARM_UP)


@dataclass(frozen=True)
class Episodes:
    """A capture to draw training steps from."""

    photos: Photos
    depth_range: DepthRange
    plan: SourcePlan
    distances: tuple[Float[Tensor, "h w"], ...] | None = None

    @classmethod
    def of(cls, scene: Scene, max_side: int, n_views: int, distances: Sequence[np.ndarray] | None = None) -> Episodes:
        """The training pictures of a capture; sources are drawn by the rule for its kind.

        Args:
            scene: The capture.
            max_side: Pictures are reduced until no side is longer.
            n_views: Sources of a picture.
            distances: What each pixel of each picture shows is so far away, where that is known.
        """
        kind = "object" if scene.meta.frame.aabb_scale == 1 else "collected"
        plan = replace(PLANS[kind], n_views=n_views, vary=(-2, 2), spread_shares=_SPREAD_SHARES)
        known = None if distances is None else tuple(torch.from_numpy(d).float() for d in distances)
        return cls(photos_of_scene(scene, max_side), DepthRange(scene.meta), plan, known)


def episode_loss(
    model: GntModel, episodes: Episodes, config: GntTraining, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Loss on random pixels of a random picture of a capture, and its squared error alone."""
    photos = episodes.photos
    target = int(torch.randint(len(photos), (1,), generator=generator))
    chosen = choose_sources(target, list(range(len(photos))), photos.poses, episodes.plan, generator)
    views = _augmented(episodes, target, chosen, generator)
    rays, wanted, distances = _draw_rays(views, config.n_rays * 8 // len(chosen), generator)
    near, far = episodes.depth_range.of(rays.rays_o[0])
    a, b, c, d = _RANGE_JITTER
    draw = torch.rand(2, generator=generator)
    near_far = (near * float(a + (b - a) * draw[0]), far * float(c + (d - c) * draw[1]))
    sampling = Sampling(config.n_samples, 0, True, len(chosen), "dist")
    sources = views_of(model, list(views.sources), views.cameras)
    # Every sample must find the surface, not only the nearest one: the colour is the mean over all of them.
    asked = int(torch.randint(config.n_samples, (1,), generator=generator)) if float(draw[0]) < 0.5 else 0
    passes = pass_over(model, sources, rays, near_far, sampling, Options(asked=asked), generator=generator)
    error = (passes.colors[-1] - wanted).square().mean()
    loss = error if distances is None else error + config.depth_share * _astray(passes.z, passes.weights, distances)
    return loss, float(error.detach())


def _astray(z: Float[Tensor, "R S"], weights: Float[Tensor, "R S"], distances: Float[Tensor, " R"]) -> Tensor:
    """Mean cross entropy between weights and a bell around the true distance, one sample wide in 1/distance."""
    is_within = (distances > z[:, 0]) & (distances < z[:, -1])
    spacing = (1 / z[:, :1] - 1 / z[:, -1:]) / z.shape[1]
    away = (1 / z - 1 / distances[:, None].clamp(1e-6, 1e6)) / spacing
    wanted = torch.softmax(-0.5 * away.square(), -1)
    entropy = -(wanted * weights.clamp_min(1e-7).log()).sum(-1)
    return (entropy * is_within).sum() / is_within.sum().clamp_min(1)


def _augmented(episodes: Episodes, target: int, chosen: Sequence[int], generator: torch.Generator) -> TrainingViews:
    """Target and sources, mirrored in half of the draws and cropped where they are large; all of one size.

    Known distances are a fourth channel of the target.
    """
    photos = episodes.photos
    pictures = [photos.pictures[i].float() / 255 for i in (target, *chosen)]
    cameras = source_cameras([photos.cameras[i] for i in (target, *chosen)])
    size = tuple(min(picture.shape[i] for picture in pictures) for i in (1, 2))
    # Where sizes differ all keep the part that they share, from the first pixel on: cameras stay as they are.
    stacked = torch.stack([picture[:, : size[0], : size[1]] for picture in pictures])
    cameras = replace(cameras, sizes=torch.tensor([size[1], size[0]]).to(cameras.sizes).expand_as(cameras.sizes))
    picture = stacked[0]
    if episodes.distances is not None:
        picture = torch.cat([picture, episodes.distances[target][None, : size[0], : size[1]]])
    views = TrainingViews(picture, stacked[1:], _part(cameras, slice(0, 1)), _part(cameras, slice(1, None)))
    views = random_crop(views, generator)
    return flip_views(views) if float(torch.rand((), generator=generator)) < 0.5 else views


def _part(cameras: SourceCameras, which: slice) -> SourceCameras:
    return SourceCameras(cameras.K[which], cameras.c2w[which], cameras.sizes[which])


def _draw_rays(
    views: TrainingViews, n: int, generator: torch.Generator
) -> tuple[Rays, Float[Tensor, "R 3"], Float[Tensor, " R"] | None]:
    """Rays through random pixels, what they show, and how far away it is where that is known."""
    height, width = views.picture.shape[1:]
    flat = torch.randperm(height * width, generator=generator)[:n]
    pixel = torch.stack([flat % width, flat // width, torch.ones_like(flat)], -1).float()
    local = pixel @ torch.linalg.inv(views.camera.K[0]).T
    rays_d = nn.functional.normalize(local @ views.camera.c2w[0, :, :3].T, dim=-1)
    rays_o = views.camera.centres.expand_as(rays_d).contiguous()
    zeros = torch.zeros(len(flat))
    known = views.picture.flatten(1)[:, flat]
    rays = Rays(rays_o, rays_d, zeros, torch.full_like(zeros, torch.inf))
    return rays, known[:3].T, known[3] if len(known) > 3 else None


def start_simply(model: GntModel) -> None:
    """For networks too small to sweep: let the position layers pass tokens on, and colours begin at grey.

    The official layers replace the tokens by something random at first: what the views show then reaches the colour
    only after thousands of steps. Where a point lies says nothing about an unknown scene, so its code begins small.
    """
    net = model.net_coarse
    with torch.no_grad():
        for layers in net.q_fcs:
            if isinstance(layers, nn.Sequential):
                before, after = layers[0], layers[2]
                assert isinstance(before, nn.Linear) and isinstance(after, nn.Linear)
                before.weight[:, : net.width] = torch.eye(net.width)
                before.weight[:, net.width :] *= 0.1
                before.bias.fill_(_STARTING_BIAS)
                after.weight.copy_(torch.eye(net.width))
                after.bias.fill_(-_STARTING_BIAS)
        net.rgb_fc.bias.fill_(0.5)


def train_gnt(
    config: GntTraining, folder: Path, *, captures: Sequence[Scene] = (), progress: Progress | None = None
) -> GntModel:
    """Train, or go on bit by bit where an earlier call with the same folder and settings stopped.

    Args:
        config: Settings.
        folder: Gets `checkpoints/` and `log.jsonl`.
        captures: Real captures that take part.
        progress: Told the error and the time left.
    Raises:
        UserError: if the folder holds a training of other sizes or another seed.
        TrainingFailed: if the loss is not finite, or a checkpoint cannot be written.
    """
    return _Training(config, folder, captures, progress or SilentProgress()).run()


@dataclass
class _Training:
    config: GntTraining
    folder: Path
    captures: Sequence[Scene]
    progress: Progress
    step: int = 0
    seconds: float = 0.0
    pool: list[Episodes] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = GntModel(config.architecture(), self.generator)
        if not start_sweeping(self.model):
            start_simply(self.model)
        groups = ((self.model.net_coarse, config.lr), (self.model.feature_net, config.lr_features))
        for net, lr in groups:
            net.requires_grad_(lr > 0)
        settings = [{"params": list(net.parameters()), "lr": lr, "peak": lr} for net, lr in groups if lr > 0]
        self.optimizer = torch.optim.Adam(settings, betas=(0.9, _SECOND_MOMENT))
        self._resume()
        self.real = [Episodes.of(scene, config.max_side, config.n_views) for scene in self.captures]

    def run(self) -> GntModel:
        config = self.config
        if self.step < config.steps:
            self._fill_pool()
        self.progress.stage("training GNT", config.steps)
        started, errors = time.monotonic() - self.seconds, []
        while self.step < config.steps:
            errors.append(self._train_step())
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % config.steps_per_scene == 0:
                self._fill_pool()
            if self.step % config.steps_per_check == 0 or self.step == config.steps:
                self._log({"train_psnr": _psnr(errors), "validation_psnr": self.validate()})
                errors = []
            if self.step % config.steps_per_save == 0 or self.step == config.steps:
                self._save()
            left = self.seconds / self.step * (config.steps - self.step)
            self.progress.advance(self.step, f"{_psnr(errors[-100:]):.2f} dB, {left / 60:.0f} min left")
        return self.model

    def validate(self) -> float:
        """Mean PSNR of a picture of each validation scene, rendered from the others."""
        config, scores = self.config, []
        for i in range(config.validation_scenes):
            scene = make_capture(VALIDATION_SEEDS + i, n_views=config.views_per_scene, side=64)
            scores.append(_score(self.model, scene, config.views_per_scene // 2, config))
        return sum(scores) / len(scores)

    def _train_step(self) -> float:
        config, generator = self.config, self.generator
        is_real = bool(self.real) and float(torch.rand((), generator=generator)) < config.capture_share
        choice = self.real if is_real else self.pool
        episodes = choice[int(torch.randint(len(choice), (1,), generator=generator))]
        loss, error = episode_loss(self.model, episodes, config, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not bool(loss.isfinite()):
            raise TrainingFailed(f"the loss is not finite at step {self.step}; continue from the last checkpoint")
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], _CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * config.rate_at(self.step)
        self.optimizer.step()
        return error

    def _fill_pool(self) -> None:
        """The newest scenes; which ones depends on the step alone, so that a resumed training has the same."""
        config = self.config
        last = config.pool + self.step // config.steps_per_scene
        missing = config.pool if not self.pool else 1
        for number in range(last - missing, last):
            seed = config.seed * 1_000_003 + number
            scene, distances = make_capture_with_depths(seed, n_views=config.views_per_scene, side=config.side)
            self.pool.append(Episodes.of(scene, config.max_side, config.n_views, distances))
        self.pool = self.pool[-config.pool :]

    def _log(self, values: dict[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1), **{k: round(v, 3) for k, v in values.items()}}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        trainer = optimizer_tensors(self.optimizer)
        trainer |= {
            "generator": self.generator.get_state(),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "seed": torch.tensor(self.config.seed),
        }
        try:
            save_checkpoint(self.folder / "checkpoints", self.step, self.model.state_dict(), trainer)
        except CheckpointNotSaved as error:
            raise TrainingFailed(str(error)) from error

    def _resume(self) -> None:
        found = list_checkpoints(self.folder / "checkpoints")
        if not found:
            return
        checkpoint = load_checkpoint(found[0][1])
        trainer, own = checkpoint.trainer, self.model.state_dict()
        shapes = {name: tensor.shape for name, tensor in checkpoint.weights.items()}
        if int(trainer["seed"]) != self.config.seed or shapes != {name: tensor.shape for name, tensor in own.items()}:
            raise UserError(
                "the training in it has another seed or other sizes", where=self.folder,
                fix="Use the same settings or another folder",
            )  # fmt: skip
        self.model.load_state_dict(checkpoint.weights)
        load_optimizer_tensors(self.optimizer, trainer)
        self.generator.set_state(trainer["generator"])
        self.step, self.seconds = checkpoint.step, float(trainer["seconds"])


def _score(model: GntModel, scene: Scene, at: int, config: GntTraining) -> float:
    """PSNR of one picture of a scene, rendered from its nearest neighbours."""
    whole = Episodes.of(scene, config.max_side, config.n_views)
    others = [i for i in range(len(whole.photos)) if i != at]
    pictures = tuple(whole.photos.pictures[i] for i in others)
    photos = Photos(pictures, tuple(whole.photos.cameras[i] for i in others), tuple(others))
    sampling = Sampling(config.n_samples, 0, True, config.n_views, whole.plan.nearness)
    renderer = GntRenderer(model, photos, whole.depth_range, sampling)
    frame = RayRenderer(renderer, scene.meta.background).render(scene.meta.training_cameras()[at])
    truth = torch.from_numpy(scene.images.pixels(at).copy()).float() / 255
    return _psnr([float((frame.rgb - truth).square().mean())])


def _psnr(errors: Sequence[float]) -> float:
    mean = sum(errors) / max(len(errors), 1)
    return -10 * math.log10(max(mean, 1e-10))


def training_notes(config: GntTraining) -> dict[str, str]:
    """The settings as notes for the file of weights."""
    return {name: str(value) for name, value in asdict(config).items()}
