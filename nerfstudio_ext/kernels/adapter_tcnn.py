"""tiny-cuda-nn behind our operations: hash and harmonics encodings and small networks, for users who have it.

It keeps its parameters in one vector in an order of its own. Ours are put into that order on every call, so that a
checkpoint knows nothing of it: a comparison back end, taken only where it is asked for.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BackendUnavailable
from .layouts import GridLayout

_FAULTS = (ImportError, OSError, AttributeError, RuntimeError, TypeError, NameError)
"""Its import raises EnvironmentError without a device, and NameError where no extension was built for the device."""
_ROW_MULTIPLE = 8
_WIDTHS = (16, 32, 64, 128)
_TILE = 16


@functools.cache
def absence() -> str:
    """Why tiny-cuda-nn cannot be used; empty when a tiny call on the device works. Looks once."""
    try:
        tcnn = importlib.import_module("tinycudann")
    except ImportError as error:
        fix = "it is built from source with nvcc, see its own instructions"
        return f"tiny-cuda-nn does not import: {_line(error)} ({fix})"
    except _FAULTS as error:
        return f"tiny-cuda-nn does not import: {_line(error)}"
    try:
        encoding = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 4}, dtype=torch.float32)
        found = encoding(torch.full((1, 3), 0.5, device="cuda"))
        is_right = abs(float(found[0, 0]) - 0.28209479177387814) < 1e-3
        return "" if is_right else "tiny-cuda-nn gives wrong answers on this device"
    except _FAULTS as error:
        return f"tiny-cuda-nn does not work here: {_line(error)}"


def hash_encode(x_unit: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """See `kernels.hash_encode`; in float32."""
    if not len(x_unit):
        return (table.sum() * 0 + x_unit.sum() * 0) + x_unit.new_zeros(0, layout.n_outputs)
    module = _grid_module(layout)
    rows = _rows_on(layout, table.device)
    return _call(module, table.index_select(0, rows).flatten(), x_unit.clamp(0, 1))


def sh_encode(d: Tensor) -> Tensor:
    """See `kernels.sh_encode`."""
    if not len(d):
        return d.sum() * 0 + d.new_zeros(0, 16)
    module = _harmonics_module()
    found: Tensor = module(0.5 * d + 0.5)
    return found.float()


def mlp(x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """See `kernels.mlp`; in half precision.

    Raises:
        BackendUnavailable: for networks tiny-cuda-nn does not have: without hidden layers, or with widths that differ.
    """
    hidden = {weight.shape[1] for weight in weights[:-1]}
    if len(hidden) != 1 or not hidden.issubset(_WIDTHS):
        fix = "Use back end 'auto' or 'reference'"
        reason = f"its networks have hidden layers of one width out of {', '.join(map(str, _WIDTHS))}"
        raise BackendUnavailable("mlp", "tcnn", reason, fix)
    if not len(x):
        return x.sum() * 0 + sum(weight.sum() * 0 for weight in weights) + x.new_zeros(0, weights[-1].shape[1])
    width = hidden.pop()
    module = _network_module(weights[0].shape[0], weights[-1].shape[1], width, len(weights) - 1)
    return _call(module, packed_matrices(weights), x)


def packed_matrices(weights: tuple[Tensor, ...]) -> Tensor:
    """Matrices [in, out] as one vector: rows are outputs, inputs and outputs in whole tiles of 16, padded with zeros.

    Padding of the input is 1 in tiny-cuda-nn; a weight of zero takes it out.
    """
    parts = []
    for weight in weights:
        n_in, n_out = weight.shape
        padded = torch.nn.functional.pad(weight, (0, -n_out % _TILE, 0, -n_in % _TILE))
        parts.append(padded.T.reshape(-1))
    return torch.cat(parts)


def table_rows(layout: GridLayout) -> np.ndarray:
    """For every row of tiny-cuda-nn's table, the row of ours with the same corner.

    Its levels have `ceil(scale) + 1` corners per axis, ours one more, so that positions at the very end of the cube
    have a cell of their own; and it stores a level densely when that many corners fit.
    """
    rows = []
    limit = 2**layout.log2_table
    for level, resolution in enumerate(layout.resolutions):
        corners = resolution**3
        if corners <= limit:
            index = np.arange(corners, dtype=np.uint64)
            x, y, z = index % resolution, index // resolution % resolution, index // resolution**2
            own = _own_rows(layout, level, x, y, z)
            size = -(-corners // _ROW_MULTIPLE) * _ROW_MULTIPLE
            own = np.concatenate([own, np.full(size - corners, own[-1])])
        else:
            own = np.arange(limit, dtype=np.int64)
        rows.append(layout.offsets[level] + own)
    return np.concatenate(rows)


def _own_rows(layout: GridLayout, level: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Rows of corners within a level of our table; see `GridLayout`."""
    if layout.is_dense[level]:
        stride = np.uint64(layout.resolutions[level] + 1)
        return (x + y * stride + z * stride * stride).astype(np.int64)
    hashed = x ^ (y * np.uint64(2654435761)) ^ (z * np.uint64(805459861))
    return (hashed & np.uint64(2**layout.log2_table - 1)).astype(np.int64)


@functools.lru_cache(maxsize=8)
def _rows_on(layout: GridLayout, device: torch.device) -> Tensor:
    return torch.from_numpy(table_rows(layout)).to(device)


@functools.lru_cache(maxsize=8)
def _grid_module(layout: GridLayout) -> Any:
    growth = (layout.finest_resolution / layout.base_resolution) ** (1 / max(layout.n_levels - 1, 1))
    config = {
        "otype": "HashGrid",
        "n_levels": layout.n_levels,
        "n_features_per_level": layout.n_features,
        "log2_hashmap_size": layout.log2_table,
        "base_resolution": layout.base_resolution,
        "per_level_scale": growth,
    }
    module = _tcnn().Encoding(3, config, dtype=torch.float32)
    n_expected = len(table_rows(layout)) * layout.n_features
    if module.params.numel() != n_expected:
        reason = f"its table has {module.params.numel()} numbers where {n_expected} were expected"
        raise BackendUnavailable("hash_encode", "tcnn", reason, "Use back end 'auto' or 'reference'")
    return module


@functools.lru_cache(maxsize=1)
def _harmonics_module() -> Any:
    return _tcnn().Encoding(3, {"otype": "SphericalHarmonics", "degree": 4}, dtype=torch.float32)


@functools.lru_cache(maxsize=8)
def _network_module(n_in: int, n_out: int, width: int, n_hidden: int) -> Any:
    config = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": n_hidden,
    }
    return _tcnn().Network(n_in, n_out, config)


def _call(module: Any, parameters: Tensor, x: Tensor) -> Tensor:
    """Run a module on parameters that are not its own; gradients flow to them."""
    found = torch.func.functional_call(module, {"params": parameters}, (x.contiguous(),))
    return found.float()


def _tcnn() -> Any:
    return importlib.import_module("tinycudann")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
