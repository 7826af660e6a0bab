"""The parity figures of GNT: what the official code computed, read from the shared folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nerfstudio_ext.fields.epipolar import SourceCameras
from nerfstudio_ext.fields.feature_net import FeatureNet
from nerfstudio_ext.fields.view_transformer import ViewTransformer


@dataclass
class Fixture:
    """One fixture set; sizes and seeds come from its files."""

    folder: Path

    def __post_init__(self) -> None:
        self.inputs = {k: torch.from_numpy(np.asarray(v)) for k, v in _arrays(self.folder / "inputs.npz")}
        self.outputs = {
            k: torch.from_numpy(np.asarray(v)) for k, v in _arrays(self.folder / "outputs.npz") if v.dtype.kind != "U"
        }
        self.gradient_names = [str(n) for n in np.load(self.folder / "outputs.npz")["train/grad_names"]]
        self.weights = {k: torch.from_numpy(v) for k, v in _arrays(self.folder / "weights.npz")}

    def models(self) -> tuple[FeatureNet, ViewTransformer]:
        """Fresh networks with the fixture's weights."""
        net = FeatureNet(self.weights["feature_net.out_conv.weight"].shape[0])
        transformer = ViewTransformer(int(self.inputs["trans_depth"]), int(self.inputs["netwidth"]))
        net.load_state_dict(_below("feature_net.", self.weights))
        transformer.load_state_dict(_below("net_coarse.", self.weights))
        return net, transformer

    @cached_property
    def sources(self) -> Tensor:
        """[V,3,H,W] pictures."""
        return pictures(self.inputs["src_rgbs_u8"])

    @cached_property
    def cameras(self) -> SourceCameras:
        return official_cameras(self.inputs["src_cameras"])

    @cached_property
    def target(self) -> SourceCameras:
        return official_cameras(self.inputs["target_camera"][None])


def pictures(pixels: Tensor) -> Tensor:
    """[V,H,W,3] bytes as [V,3,H,W] floats."""
    return (pixels.float() / 255).permute(0, 3, 1, 2).contiguous()


def official_cameras(vectors: Tensor) -> SourceCameras:
    """Cameras from vectors of 34 numbers: height, width, intrinsics 4x4, camera to world 4x4."""
    matrices = vectors[:, 2:].reshape(-1, 2, 4, 4)
    return SourceCameras(matrices[:, 0, :3, :3], matrices[:, 1, :3], vectors[:, [1, 0]])


def official_vectors(cameras: SourceCameras) -> Tensor:
    """The inverse of `official_cameras`."""
    n = len(cameras)
    K, c2w = torch.eye(4).repeat(n, 1, 1), torch.eye(4).repeat(n, 1, 1)
    K[:, :3, :3], c2w[:, :3] = cameras.K, cameras.c2w
    return torch.cat([cameras.sizes[:, [1, 0]], K.flatten(1), c2w.flatten(1)], 1)


def _arrays(path: Path) -> list[tuple[str, np.ndarray]]:
    with np.load(path) as archive:
        return [(name, archive[name]) for name in archive.files]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
