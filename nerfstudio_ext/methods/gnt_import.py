"""Official GNT checkpoints (`model_720000.pth`) to our file of weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..fields.gnt_weights import GntModel, model_of, save_gnt
from .torch_files import read_torch_file

_NETS = ("net_coarse", "feature_net")


def import_gnt(source: Path, target: Path) -> GntModel:
    """Read an official checkpoint and write its networks as safetensors.

    Args:
        source: The `.pth` file.
        target: File to write.
    Returns:
        The model.
    Raises:
        UserError: if the file is damaged, holds more than data, or is no GNT of a size that can be used.
    """
    model = model_of(_tensors(read_torch_file(source), source), where=str(source))
    step = re.search(r"(\d{6})$", source.stem)
    notes = {"source": source.name, "code_scale": "source units"}
    save_gnt(model, target, notes | ({"step": str(int(step[1]))} if step else {}))
    return model


def _tensors(found: dict[str, Any], source: Path) -> dict[str, Tensor]:
    """The tensors of both networks under their prefixes."""
    if all(isinstance(value, Tensor) for value in found.values()):  # a .safetensors file, which has no dictionaries
        found = {
            net: {name.removeprefix(f"{net}."): value for name, value in found.items() if name.startswith(f"{net}.")}
            for net in {name.partition(".")[0] for name in found}
        }
    missing = [name for name in _NETS if not isinstance(found.get(name), dict)]
    if missing:
        raise UserError(
            f"no '{missing[0]}' in it; not a checkpoint of the official GNT",
            where=source,
            fix="Pass a checkpoint that the official code has written",
        )
    if isinstance(found.get("net_fine"), dict):
        raise UserError(
            "it has a second network for fine samples",
            where=source,
            fix="Only checkpoints with one network can be used",
        )
    tensors = {}
    for net in _NETS:
        for name, value in found[net].items():
            if not isinstance(value, Tensor):
                raise UserError(
                    f"'{net}.{name}' is no tensor",
                    where=source,
                    fix="Pass a checkpoint that the official code has written",
                )
            tensors[f"{net}.{str(name).removeprefix('module.')}"] = value  # the prefix comes from training on many GPUs
    return tensors
