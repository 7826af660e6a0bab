"""A method and a scene small enough to train in milliseconds, with everything that resume must restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from nerfstudio_ext import methods
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.methods.protocol import ParamGroup
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.scenes.model import Scene, SceneFrame, SceneMeta, Split
from nerfstudio_ext.scenes.pixel_sampler import PixelBatch
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.trainer import Trainer


@dataclass(frozen=True)
class TinyConfig:
    """Settings of the tiny method."""

    hidden: int = 16
    """Width."""
    lr: float = 1e-2
    """Rate."""
    note: str | None = None
    """Anything."""
    sizes: tuple[int, ...] = (1, 2)
    """Numbers."""


class Tiny(nn.Module):
    """Colour from ray direction by a small network, with dropout-like noise from its own generator."""

    def __init__(self, config: TinyConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(3, config.hidden, generator=self.generator) * 0.5)
        self.second = nn.Parameter(torch.randn(config.hidden, 3, generator=self.generator) * 0.5)
        self.n_rays = 32
        self.before_step: Callable[[int], None] = lambda step: None
        self.spoil: Callable[[int, Tensor], Tensor] = lambda step, loss: loss

    def param_groups(self) -> list[ParamGroup]:
        return [
            ParamGroup("first", (self.first,), self.config.lr),
            ParamGroup("second", (self.second,), self.config.lr),
        ]

    def lr_factor(self, progress: float) -> float:
        return 10 ** (-progress)

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        self.before_step(step)
        noise = 0.01 * torch.randn(len(rays), 3, generator=self.generator)
        error = self._colour(rays.rays_d) + noise - batch.rgb
        mse = error.square().mean()
        loss = self.spoil(step, mse + 0)
        return {"colour": loss, "size": 1e-6 * self.first.square().sum(), "mse": mse.detach()}

    def after_step(self, step: int) -> None:
        self.n_rays = 24 + int(torch.randint(16, (1,), generator=self.generator))

    def render_rays(self, rays: Rays) -> RayOutputs:
        return self._outputs(self.first, self.second, rays)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        first, second = self.first.detach().clone(), self.second.detach().clone()
        return lambda rays: self._outputs(first, second, rays)

    def stats(self) -> Mapping[str, float]:
        return {"occupancy": 0.25}

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor], *args: object) -> None:
        own = dict(state)
        self.generator.set_state(own.pop("generator"))
        super().load_state_dict(own)

    def _colour(self, d: Tensor) -> Tensor:
        return torch.sigmoid(torch.relu(d @ self.first) @ self.second)

    def _outputs(self, first: Tensor, second: Tensor, rays: Rays) -> RayOutputs:
        rgb = torch.sigmoid(torch.relu(rays.rays_d @ first) @ second)
        return RayOutputs(rgb, torch.ones(len(rays)), torch.ones(len(rays)))


def tiny_meta(n_views: int = 6, size: int = 12) -> SceneMeta:
    """A ring of cameras looking at the origin."""
    cameras = []
    for i in range(n_views):
        angle = 2 * math.pi * i / n_views
        z = torch.tensor([-math.cos(angle), -math.sin(angle), 0.0], dtype=torch.float64)
        x = torch.tensor([-math.sin(angle), math.cos(angle), 0.0], dtype=torch.float64)
        rotation = torch.stack([x, torch.linalg.cross(z, x), z], -1)
        cameras.append(Camera.perspective(size, size, 50.0, torch.cat([rotation, -z[:, None]], -1)))
    names = tuple(f"images/{i:03d}.png" for i in range(n_views))
    split = Split(tuple(range(1, n_views)), (0,), (0,))
    return SceneMeta("tiny scene", "made up", Cameras(cameras), names, split, SceneFrame.identity())


class TinyImages:
    """Pictures that are smooth in the direction of view."""

    n_channels = 3

    def __init__(self, meta: SceneMeta) -> None:
        self._all = []
        for camera in meta.training_cameras():
            rgb = 0.5 + 0.4 * torch.sin(2 * camera.rays().rays_d)
            self._all.append((255 * rgb).to(torch.uint8).reshape(camera.height, camera.width, 3).numpy())
        self.sizes = meta.cameras.sizes

    def pixels(self, i: int) -> np.ndarray:
        return self._all[i]

    def valid_pixels(self, i: int) -> np.ndarray | None:
        return None


class TinySampler:
    """Uniform pixels of all training images."""

    def __init__(self, meta: SceneMeta, images: TinyImages, seed: int) -> None:
        self._cameras = meta.training_cameras()
        self._train = torch.tensor(meta.split.train)
        self._images = torch.stack([torch.from_numpy(images.pixels(i)) for i in range(len(self._cameras))])
        self._generator = torch.Generator().manual_seed(seed)

    def next(self, n_rays: int) -> PixelBatch:
        cam_ids = self._train[torch.randint(len(self._train), (n_rays,), generator=self._generator)]
        height, width = self._images.shape[1:3]
        v = torch.randint(height, (n_rays,), generator=self._generator)
        u = torch.randint(width, (n_rays,), generator=self._generator)
        rgb = self._images[cam_ids, v, u].float() / 255
        return PixelBatch(cam_ids, torch.stack([u, v], -1) + 0.5, rgb, None)

    def rays(self, batch: PixelBatch) -> Rays:
        return self._cameras.rays_through(batch.cam_ids, batch.uv)

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])


@dataclass
class RecordingProgress:
    """Keeps everything a long job says."""

    stages: list[tuple[str, int | None]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append((name, total))

    def advance(self, done: int, note: str = "") -> None:
        self.notes.append((done, note))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def register_tiny() -> None:
    """Make the tiny method known, as a third party's entry point would."""
    methods.known_methods()["tiny"] = methods.MethodEntry("tiny", TinyConfig, Tiny)


def tiny_trainer(
    output: Path, train: TrainConfig, *, run: Run | None = None, seed: int = 3, watcher: object = None
) -> tuple[Trainer, RecordingProgress]:
    """A trainer of the tiny method in a fresh run folder below `output`, or in `run`."""
    register_tiny()
    meta = tiny_meta()
    images = TinyImages(meta)
    scene = Scene(meta, images)  # type: ignore[arg-type]
    config = RunConfig(TinyConfig(), train)
    run = run or Run.create(output, config, meta)
    method = methods.build(config.method, meta, seed=seed)
    progress = RecordingProgress()
    sampler = TinySampler(meta, images, seed)
    trainer = Trainer(method, scene, train, run, watcher, progress, sampler=sampler)  # type: ignore[arg-type]
    return trainer, progress


def everything(trainer: Trainer) -> SimpleNamespace:
    """All tensors of a trainer, for bitwise comparison."""
    state = trainer.stepper.capture()
    return SimpleNamespace(weights=state.weights, trainer=state.trainer)
