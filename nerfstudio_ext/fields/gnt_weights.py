"""The two networks of GNT as one thing, and as a file: safetensors, with the architecture read from the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as pack_safetensors
from torch import Tensor, nn

from ..errors import UserError
from ..tensor_files import read_tensors
from .feature_net import FeatureNet
from .view_transformer import ViewTransformer

FORMAT, FORMAT_VERSION = "nerfstudio-ext gnt", 1
MAX_BYTES = 1 << 28
"""The largest official network takes 40 MB; a file above this is something else."""
MAX_BLOCKS = 64
"""Of a stage of the feature network; the official one has 6."""
_STAGES = ("layer1", "layer2", "layer3")


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks; those of the official single-scene model are the defaults.

    Attributes:
        depth: View and ray blocks.
        width: Channels of a token.
        n_features: Channels of a feature map.
        feature_width: Channels of the feature network's first stage.
        feature_blocks: Residual blocks of its three stages.
    """

    depth: int = 4
    width: int = 64
    n_features: int = 32
    feature_width: int = 64
    feature_blocks: tuple[int, int, int] = (3, 4, 6)


class GntModel(nn.Module):
    """The feature network and the transformer, under the prefixes of the official checkpoints.

    Args:
        architecture: Sizes.
        generator: Draws the weights.
    """

    def __init__(self, architecture: Architecture, generator: torch.Generator | None = None) -> None:
        super().__init__()
        a = architecture
        self.architecture = architecture
        self.feature_net = FeatureNet(a.n_features, a.feature_width, a.feature_blocks, generator)
        self.net_coarse = ViewTransformer(a.depth, a.width, a.n_features, generator)


def architecture_of(tensors: Mapping[str, Tensor]) -> Architecture:
    """The sizes that tensors named like `GntModel`'s belong to.

    Raises:
        KeyError: if a tensor that tells a size is missing.
    """
    depth = _count(r"net_coarse\.view_crosstrans\.(\d+)\.", tensors)
    blocks = [_count(rf"feature_net\.{stage}\.(\d+)\.", tensors) for stage in _STAGES]
    return Architecture(
        depth=depth,
        width=tensors["net_coarse.rgb_fc.weight"].shape[1],
        n_features=tensors["feature_net.out_conv.weight"].shape[0],
        feature_width=tensors["feature_net.conv1.weight"].shape[0],
        feature_blocks=(blocks[0], blocks[1], blocks[2]),
    )


def model_of(tensors: Mapping[str, Tensor], *, where: str) -> GntModel:
    """A model with the given weights, whatever its sizes.

    Raises:
        UserError: naming the first tensor that is missing, unknown or of the wrong shape.
    """
    try:
        architecture = architecture_of(tensors)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"no GNT network: tensor {error} is missing",
            where=where,
            fix="Convert the weights again with `nsx import gnt`",
        ) from None
    if architecture.width % 16 or not 16 <= architecture.width <= 256 or not 1 <= architecture.depth <= 64:
        raise UserError(
            f"a GNT of depth {architecture.depth} and width {architecture.width}", where=where,
            fix="Depth 1 to 64 and a width of 16, 32 ... 256 can be used",
        )  # fmt: skip
    if max(architecture.feature_blocks) > MAX_BLOCKS:  # one tensor with a high number in its name would make them all
        raise UserError(f"a GNT of {max(architecture.feature_blocks)} residual blocks in a stage", where=where,
                        fix=f"At most {MAX_BLOCKS} can be used")  # fmt: skip
    model = GntModel(architecture)
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(
                f"tensor '{name}' is missing", where=where, fix="Convert the weights again with `nsx import gnt`"
            )
        if tensors[name].shape != tensor.shape:
            shapes = f"expected {tuple(tensor.shape)}, found {tuple(tensors[name].shape)}"
            raise UserError(
                f"tensor '{name}': {shapes}", where=where, fix="Convert the weights again with `nsx import gnt`"
            )
        if not tensors[name].is_floating_point() or not bool(tensors[name].isfinite().all()):
            raise UserError(
                f"tensor '{name}' is not all finite numbers",
                where=where,
                fix="Convert the weights again with `nsx import gnt`",
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise UserError(
            f"tensor '{unknown[0]}' is unknown", where=where, fix="Convert the weights again with `nsx import gnt`"
        )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model


def save_gnt(
    model: GntModel, path: Path, about: Mapping[str, str] | None = None, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model.

    Args:
        model: What to save.
        path: File; replaced when it exists.
        about: Notes to keep with it.
        dtype: Type of the numbers in the file; float16 halves it.
    """
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    notes = {**(about or {}), "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(pack_safetensors(tensors, notes))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_gnt(path: Path) -> tuple[GntModel, dict[str, str]]:
    """Read a model and the notes that were saved with it.

    Raises:
        UserError: if the file is missing, too large, damaged, no GNT, or of a later version.
    """
    fix = "Convert official checkpoints with `nsx import gnt FILE`"
    tensors, notes = read_tensors(path, max_bytes=MAX_BYTES, noun="file of weights", fix=fix)
    if notes.get("format") != FORMAT:
        raise UserError("a tensor file, but no GNT", where=path, fix=fix)
    if notes.get("format_version") != str(FORMAT_VERSION):
        found = notes.get("format_version", "none")
        raise UserError(
            f"GNT format {found}; this version reads {FORMAT_VERSION}", where=path, fix="Upgrade nerfstudio-ext"
        )
    return model_of(tensors, where=str(path)), notes


def _count(pattern: str, names: Mapping[str, Tensor]) -> int:
    """One more than the largest number that the pattern finds in the names."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    if not found:
        raise KeyError(pattern.replace("\\", "").replace("(d+)", "0"))
    return max(found) + 1
