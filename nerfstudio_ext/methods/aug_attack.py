"""A trained scene under disturbance: how much colour error noise or an adversary of a given radius can cause."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..rays import Rays
from ..scenes.model import SceneMeta
from .aug import Aug
from .aug_hash import HashScene
from .aug_settings import AugConfig, KeyPlan, plans
from .ngp import Ngp
from .protocol import Method

CHUNK = 1024
"""Rays that are attacked together; a disturbance of the pose is one for each such group."""


@dataclass(frozen=True)
class Disturber:
    """Evaluates a trained scene under the disturbances of augmented training.

    Attributes:
        scene: The scene, as a method of augmented training; trains nothing.
        seed: Of the random starts.
    """

    scene: Aug
    seed: int = 0

    @classmethod
    def of(cls, method: Method, meta: SceneMeta, seed: int = 0) -> Disturber | None:
        """For a trained method; None for kinds whose inside cannot be reached."""
        if isinstance(method, Aug):
            return cls(method, seed)
        if not isinstance(method, Ngp):
            return None
        twin = Aug(AugConfig(field="hash", hash=method.config), meta, seed=seed)
        assert isinstance(twin.scene, HashScene)
        twin.scene.adopt(method)
        return cls(twin, seed)

    def default_plans(self, keys: list[str]) -> list[KeyPlan]:
        """How training would disturb these keys by default."""
        found = plans(AugConfig(field=self.scene.config.field, keys=",".join(keys)))
        return [found[key] for key in keys]

    def squared_error(
        self,
        rays: Rays,
        cam_ids: Int64[Tensor, " R"],
        target: Float[Tensor, "R 3"],
        background: tuple[float, float, float],
        settings: AugConfig,
    ) -> float:
        """Mean squared colour error of rays under the adversary that `settings` describe.

        Args:
            rays: In the training frame.
            cam_ids: Camera of each ray.
            target: What they should show.
            background: Colour behind the scene.
            settings: Keys, radii, steps and kind of the adversary; an empty list of keys disturbs nothing.
        """
        own = self.scene.config
        config = replace(settings, field=own.field, mode="shared", mlp=own.mlp, hash=own.hash)
        generator = torch.Generator().manual_seed(self.seed)
        total = 0.0
        for start in range(0, len(rays), CHUNK):
            part = slice(start, start + CHUNK)
            shown = torch.tensor(background).expand(len(target[part]), 3)
            batch = self.scene.scene.fixed_batch(rays[part], cam_ids[part], target[part], shown)
            deltas = self.scene.worst(batch, config, generator)
            total += batch.squared_error(deltas) * len(target[part])
        return total / max(len(rays), 1)
