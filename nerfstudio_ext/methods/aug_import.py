"""Checkpoints of the released Aug-NeRF code into our networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..fields.mlp_field import MlpField, from_released
from ..scenes.model import SceneFrame
from .aug_mlp import MlpScene
from .aug_settings import AugConfig, MlpConfig
from .torch_files import read_torch_file

PARTS = {"coarse": "nerf.mlp.", "fine": "nerf_fine.mlp.", "adversarial": "nerf_adv.mlp."}
"""Our networks and the beginnings of their tensors' names in a released checkpoint."""
RELEASED_SAMPLES = (64, 128)
"""Coarse and additional fine samples of the released settings for object captures."""


@dataclass(frozen=True)
class ReleasedNetworks:
    """The networks in a checkpoint.

    Attributes:
        width: Width of their layers.
        weights: By our name of each network, its weights under our names.
    """

    width: int
    weights: Mapping[str, Mapping[str, Tensor]]

    @property
    def config(self) -> AugConfig:
        """The settings that these networks fit."""
        coarse, fine = RELEASED_SAMPLES
        mlp = MlpConfig(self.width, coarse, fine if "fine" in self.weights else 0, rays_per_batch=1024)
        return AugConfig(mlp=mlp)


def read_released(path: Path) -> ReleasedNetworks:
    """Read a checkpoint; nothing in it is run.

    Raises:
        UserError: if the file cannot be read safely or lacks a part of the networks.
    """
    tensors = _named_tensors(read_torch_file(path))
    weights = {name: from_released(tensors, prefix) for name, prefix in PARTS.items()}
    weights = {name: found for name, found in weights.items() if found}
    if "coarse" not in weights:
        raise UserError(
            f"no tensors '{PARTS['coarse']}*'", where=path, fix="Pass a checkpoint of the released Aug-NeRF"
        )
    width = _width(weights["coarse"].get("points.0.weight"))
    generator = torch.Generator().manual_seed(0)
    for name, found in weights.items():
        expected = MlpField(width, generator).state_dict() if width > 1 and width % 2 == 0 else {}
        for key, tensor in expected.items():
            if key not in found or found[key].shape != tensor.shape:
                shape = f"shape {tuple(found[key].shape)}" if key in found else "nothing"
                raise UserError(f"network '{name}': {shape} for '{key}'", where=path, fix="Other layers are not known")
        if not expected or not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
            raise UserError(f"network '{name}' is damaged", where=path, fix="Get the original file again")
    return ReleasedNetworks(width, weights)


def load_released(scene: MlpScene, networks: ReleasedNetworks, frame: SceneFrame) -> None:
    """Put released networks, which live in the frame of the capture's file, into a scene.

    Args:
        scene: Built with `networks.config` for the capture.
        networks: From `read_released`.
        frame: Of the capture.
    """
    scene.coarse.load_state_dict(networks.weights["coarse"])
    if scene.fine is not None:
        scene.fine.load_state_dict(networks.weights["fine"])
    scene.place_networks(frame)


def _named_tensors(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a dictionary and of the dictionaries directly in it, without the prefix of parallel training."""
    groups = [found, *(value for value in found.values() if isinstance(value, Mapping))]
    pairs = ((str(name), value) for group in groups for name, value in group.items())
    return {name.removeprefix("module."): value.float() for name, value in pairs if isinstance(value, Tensor)}


def _width(first: Tensor | None) -> int:
    return int(first.shape[0]) if first is not None and first.dim() == 2 else 0
