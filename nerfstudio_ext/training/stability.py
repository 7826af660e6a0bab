"""How a trained scene stands what is not quite right: wrong poses, jittered rays, noisy features, an adversary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera
from ..methods.aug_attack import Disturber
from ..methods.aug_settings import ATTACK_KEYS, AugConfig
from ..methods.protocol import Method
from ..metrics import psnr
from ..progress import Progress, SilentProgress
from ..scenes.corruption import Corruption, corrupt_pose
from ..scenes.model import Scene
from .evaluate import SplitName, picked_images, truth_image, usable_mask

POSE_LEVELS = (0.125, 0.25, 0.5, 1.0)
"""Degrees, and percent of the scene's inner cube."""
JITTER_LEVELS = (0.25, 0.5, 1.0, 2.0)
"""Standard deviation of where a ray passes through its pixel, pixels."""
NOISE_LEVELS = (0.5, 1.0, 2.0, 4.0)
"""Random features and attacks: multiples of the default radius of training."""
CHUNK = 4096


@dataclass(frozen=True)
class StabilityCurve:
    """PSNR against the strength of one disturbance.

    Attributes:
        name: "pose", "jitter", "features" or "attack".
        unit: What a level of 1 means.
        levels: Strengths; the first is 0.
        psnr: Mean PSNR over the images at each level, dB.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    psnr: tuple[float, ...]

    @property
    def drops(self) -> tuple[float, ...]:
        """How far each level lies below the undisturbed scene, dB."""
        return tuple(self.psnr[0] - value for value in self.psnr)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"unit": self.unit, "levels": list(self.levels), "psnr": list(self.psnr), "drop": list(self.drops)}


def measure_stability(
    method: Method,
    scene: Scene,
    split: SplitName = "test",
    max_images: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    kinds: Sequence[str] | None = None,
    strengths: Sequence[float] | None = None,
) -> list[StabilityCurve]:
    """Measure a method on images of a split under disturbances of growing strength.

    Poses and rays are disturbed for any method, features and the adversary where the inside can be reached (the fast
    field and augmented training). The adversary has all published keys with their default radii, takes three ascent
    steps and disturbs groups of 1024 rays, each in its own way: a stronger opponent than one disturbance per image.
    `kinds` leaves out all other curves, `strengths` all levels but these and 0.

    Raises:
        UserError: if the split is empty.
    """
    progress = progress or SilentProgress()
    picked = picked_images(getattr(scene.meta.split, split), max_images, split)
    views = [_View(scene, i) for i in picked]
    jobs: list[tuple[str, str, Sequence[float], Callable[[_View, float], float]]] = [
        ("pose", "degrees, and percent of the scene", POSE_LEVELS, lambda v, s: _with_pose(method, v, s, seed)),
        ("jitter", "pixels", JITTER_LEVELS, lambda v, s: _with_jitter(method, v, s, seed)),
    ]
    disturber = Disturber.of(method, scene.meta, seed)
    if disturber is not None:
        noise, attack = _settings(disturber)
        jobs += [
            ("features", "default radius, random", NOISE_LEVELS, lambda v, s: v.disturbed(disturber, noise(s))),
            ("attack", "default radius, worst case", NOISE_LEVELS, lambda v, s: v.disturbed(disturber, attack(s))),
        ]
    jobs = [
        (name, unit, [level for level in levels if strengths is None or level in strengths], measure)
        for name, unit, levels, measure in jobs
        if kinds is None or name in kinds
    ]
    curves, done = [], 0
    progress.stage("stability", len(views) * sum(1 + len(levels) for _, _, levels, _ in jobs))
    for name, unit, levels, measure in jobs:
        means = []
        for level in (0.0, *levels):
            values = []
            for view in views:
                values.append(measure(view, level))
                done += 1
                progress.advance(done, f"{name} {level:g}")
            means.append(math.fsum(values) / len(values))
        curves.append(StabilityCurve(name, unit, (0.0, *levels), tuple(means)))
    return curves


def _settings(disturber: Disturber) -> tuple[Callable[[float], AugConfig], Callable[[float], AugConfig]]:
    """Settings of random features and of the adversary by multiples of the default radii."""
    own = disturber.scene.config
    default = AugConfig(field=own.field)

    def at(strength: float, keys: str, **changes: Any) -> AugConfig:
        if strength == 0:
            return replace(default, keys="")
        names = keys.split(",")
        radii = ",".join(repr(strength * plan.radius) for plan in disturber.default_plans(names))
        return replace(default, keys=keys, radii=radii, **changes)

    def noise(strength: float) -> AugConfig:
        return at(strength, "features", adversary="random")

    def attack(strength: float) -> AugConfig:
        return at(strength, ATTACK_KEYS, iterations="3", step_sizes="0.5")

    return noise, attack


class _View:
    """One image of the capture, ready to be looked at in many ways."""

    def __init__(self, scene: Scene, position: int) -> None:
        self.position = position
        self.background = scene.meta.background
        self.camera = scene.meta.training_cameras()[position]
        self.truth: Float[Tensor, "H W 3"] = truth_image(scene, position)
        self.mask = usable_mask(scene, position)

    def psnr(self, image: Float[Tensor, "P 3"]) -> float:
        """Of the pixels of a picture, row by row."""
        return psnr(image.reshape(self.truth.shape), self.truth, self.mask)

    def disturbed(self, disturber: Disturber, settings: AugConfig) -> float:
        """PSNR under the disturbances of augmented training, over the usable pixels."""
        chosen = slice(None) if self.mask is None else self.mask.flatten().nonzero()[:, 0]
        rays, target = self.camera.rays()[chosen], self.truth.reshape(-1, 3)[chosen]
        cam_ids = torch.full((len(target),), self.position)
        error = disturber.squared_error(rays, cam_ids, target, self.background, settings)
        return -10 * math.log10(max(error, 1e-10))


def _with_pose(method: Method, view: _View, level: float, seed: int) -> float:
    camera = view.camera
    if level > 0:
        corruption = Corruption("pose", level, seed)
        c2w = corrupt_pose(camera.c2w.numpy(), corruption, 1.0, corruption.generator(view.position))
        camera = replace(camera, c2w=torch.from_numpy(c2w))
    return view.psnr(_render(method, camera, camera.pixel_centres(), view.background))


def _with_jitter(method: Method, view: _View, level: float, seed: int) -> float:
    uv = view.camera.pixel_centres()
    noise = np.random.default_rng([seed, view.position]).standard_normal(tuple(uv.shape), dtype=np.float32)
    return view.psnr(_render(method, view.camera, uv + level * torch.from_numpy(noise), view.background))


def _render(method: Method, camera: Camera, uv: Tensor, background: tuple[float, float, float]) -> Tensor:
    """Colours of the rays through pixel positions, on the scene's background."""
    parts = []
    with torch.no_grad():
        for part in uv.split(CHUNK):
            out = method.render_rays(camera.rays_through(part))
            color = out.rgb if out.alpha is None else out.rgb + (1 - out.alpha[:, None]) * torch.tensor(background)
            parts.append(color.clamp(0, 1))
    return torch.cat(parts)
