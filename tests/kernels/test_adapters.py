"""The optional libraries: what is said when they are missing or broken, and that our parameters fit their order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nerfstudio_ext.errors import BackendUnavailable
from nerfstudio_ext.kernels import GridLayout, Marching, adapter_nerfacc, adapter_tcnn, reference
from nerfstudio_ext.rays import Rays


@pytest.fixture(autouse=True)
def fresh_probes() -> Iterator[None]:
    for probe in (adapter_nerfacc.absence, adapter_tcnn.absence):
        probe.cache_clear()
    yield
    for probe in (adapter_nerfacc.absence, adapter_tcnn.absence):
        probe.cache_clear()


def _install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def _raise(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_libraries_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nerfacc", "tinycudann"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "nerfacc does not import" in adapter_nerfacc.absence()
    assert "[cuda]" in adapter_nerfacc.absence()
    assert "built from source" in adapter_tcnn.absence()


def test_an_extension_that_was_never_built_is_not_built_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, "nerfacc", ray_aabb_intersect=_raise(AssertionError("this would start the build")))
    monkeypatch.setattr(adapter_nerfacc, "_build_folder", lambda: tmp_path)
    assert "is not built" in adapter_nerfacc.absence()


def test_a_build_that_was_cut_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, "nerfacc", ray_aabb_intersect=_raise(AssertionError("this would wait for ever")))
    monkeypatch.setattr(adapter_nerfacc, "_build_folder", lambda: tmp_path)
    (tmp_path / "nerfacc_cuda.so").touch()
    (tmp_path / "lock").touch()
    assert f"delete {tmp_path}" in adapter_nerfacc.absence()


@pytest.mark.parametrize(
    "fault", [OSError("CUDA_HOME is not set"), AttributeError("'NoneType' has no 'x'"), RuntimeError("two\nlines")]
)
def test_every_fault_of_the_first_call_is_one_line(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    _install(monkeypatch, "nerfacc", ray_aabb_intersect=_raise(fault))
    _install(monkeypatch, "nerfacc.csrc")
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: None)  # there is no device to put them on
    monkeypatch.setattr(torch, "ones", lambda *a, **k: None)
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: None)
    reason = adapter_nerfacc.absence()
    assert "does not work" in reason and type(fault).__name__ in reason and "\n" not in reason
    _install(monkeypatch, "tinycudann", Encoding=_raise(fault))
    reason = adapter_tcnn.absence()
    assert "does not work" in reason and type(fault).__name__ in reason and "\n" not in reason


def test_a_longest_step_that_would_be_reached_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def box(rays_o: Tensor, rays_d: Tensor, boxes: Tensor, near: float, far: float) -> tuple[Tensor, ...]:
        found = reference.ray_aabb(rays_o, rays_d, boxes[0])
        return found[0][:, None], found[1][:, None], torch.ones(len(rays_o), 1, dtype=torch.bool)

    _install(monkeypatch, "nerfacc", ray_aabb_intersect=box)
    rays = Rays(torch.tensor([[-4.0, 0, 0]]), torch.tensor([[1.0, 0, 0]]), torch.zeros(1), torch.full((1,), torch.inf))
    bits = torch.full((3, 64), -1)
    with pytest.raises(BackendUnavailable, match="no longest marching step"):
        adapter_nerfacc.march(rays, bits, 16, Marching(0.01, 0.1, 0.02, 0.0), torch.zeros(1), None)


def test_the_first_samples_of_each_ray_are_kept() -> None:
    indices = torch.tensor([0, 0, 0, 2, 2])
    t = torch.arange(5.0)
    packed = adapter_nerfacc._packed(indices, t, t + 1, 4, 2)
    assert packed.ray_indices.tolist() == [0, 0, 2, 2] and packed.t_starts.tolist() == [0, 1, 3, 4]
    assert packed.packed_info.tolist() == [[0, 2], [2, 0], [2, 2], [4, 0]]


def _foreign_encode(x: np.ndarray, table: np.ndarray, layout: GridLayout) -> np.ndarray:
    """The hash encoding over a table in tiny-cuda-nn's order, written from its published layout."""
    levels, offset = [], 0
    for scale in layout.scales:
        resolution, limit = int(np.ceil(scale)) + 1, 2**layout.log2_table
        is_dense = resolution**3 <= limit
        position = x * scale + 0.5
        lower = np.floor(position)
        fraction = position - lower
        total = np.zeros((len(x), layout.n_features))
        for corner in range(8):
            step = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
            cx, cy, cz = (lower + step).astype(np.uint64).T
            dense = cx + cy * resolution + cz * resolution**2
            hashed = cx ^ (cy * np.uint64(2654435761)) ^ (cz * np.uint64(805459861))
            row = dense if is_dense else hashed & np.uint64(limit - 1)
            weight = np.where(step == 1, fraction, 1 - fraction).prod(-1)
            total += weight[:, None] * table[offset + row.astype(np.int64)]
        levels.append(total)
        offset += -(-min(resolution**3, limit) // 8) * 8
    return np.concatenate(levels, 1)


@pytest.mark.parametrize(
    "layout", [GridLayout(6, 2, 12, 8, 256), GridLayout(4, 4, 14, 5, 40), GridLayout(1, 2, 9, 8, 8)]
)
def test_our_table_in_the_order_of_tiny_cuda_nn_gives_the_same_features(layout: GridLayout) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(layout.n_rows, layout.n_features, generator=generator, dtype=torch.float64)
    # The last half cell of a level has a corner that only our layout stores.
    x = torch.rand(500, 3, generator=generator, dtype=torch.float64) * (1 - 1 / layout.base_resolution)
    foreign = table.numpy()[adapter_tcnn.table_rows(layout)]
    expected = reference.hash_encode(x, table, layout)
    assert np.allclose(_foreign_encode(x.numpy(), foreign, layout), expected.numpy(), atol=1e-12)


def test_matrices_are_padded_transposed_and_chained() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((24, 32), (32, 32), (32, 3))
    )
    x = torch.randn(7, 24, generator=generator, dtype=torch.float64)
    flat = adapter_tcnn.packed_matrices(weights)
    shapes = ((32, 32), (32, 32), (16, 32))  # outputs by inputs, in whole tiles
    parts = flat.split([a * b for a, b in shapes])
    value = torch.cat([x, torch.ones(7, 8, dtype=torch.float64)], 1)  # what tiny-cuda-nn fills up with
    for index, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        value = value @ part.view(shape).T
        value = value.relu() if index < 2 else value
    assert torch.allclose(value[:, :3], reference.mlp(x, weights), atol=1e-12)
    assert not value[:, 3:].any()


@pytest.mark.parametrize("shapes", [((4, 2),), ((4, 16), (16, 32), (32, 2)), ((4, 20), (20, 2))])
def test_networks_it_does_not_have_are_refused(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(BackendUnavailable, match="hidden layers of one width"):
        adapter_tcnn.mlp(torch.zeros(3, 4), tuple(torch.zeros(shape) for shape in shapes))
