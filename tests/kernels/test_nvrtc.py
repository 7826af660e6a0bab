"""The real compiler on every kernel and architecture, without a GPU: does it compile, does it fit the machine."""

from __future__ import annotations

from functools import cache

import pytest

from nerfstudio_ext.kernels.cuda_launch import ENTRIES, program_of
from nerfstudio_ext.kernels.cuda_sizes import FieldSizes
from nerfstudio_ext.kernels.rtc_compile import CompileError, Nvrtc, Program, Resources, resources_of
from nerfstudio_ext.kernels.rtc_libraries import CudaUnavailable, load_nvrtc

DEFAULT = FieldSizes(16, 2, 64, 64)
FAST = FieldSizes(8, 4, 64, 64)
SMALL, WIDE = FieldSizes(12, 2, 16, 16), FieldSizes(16, 2, 128, 128)
COMMON, RARE = (75, 90), (80, 86, 89, 120)
"""The oldest, with its own tensor-core instruction, and the newest with vector atomics; the others are variants."""

REGISTERS = {
    "march_count": 48, "march_write": 48, "scan_counts": 64, "field_forward": 104, "field_along": 104,
    "field_density": 104, "step_loss": 80, "list_seen": 40, "field_backward": 255, "reduce_networks": 48,
    "pack_networks": 40,
    "grid_backward": 80, "grid_positions": 80, "table_to_float": 24, "ray_box": 40, "composite": 64,
    "composite_backward": 80, "cast_table": 24, "count_bad": 32, "adam_clock": 64, "adam": 40,
    "render_fused": 112, "hash_forward": 64, "hash_backward": 72, "hash_positions": 96,
    "occ_decay": 24, "occ_raise": 24, "occ_pack": 32, "occ_population": 24, "occ_select": 40,
}  # fmt: skip
"""Most registers per thread. Two blocks of 320 threads share a processor up to 102 registers; where its shared memory
holds only one block anyway (sm_86, 89, 120), 112 does no harm. The backward pass runs with one block, where 255 is what
there is. Small kernels are bound by memory and must not grow."""
STATIC_SHARED = 48 << 10


def _nvrtc() -> Nvrtc | None:
    try:
        return Nvrtc(load_nvrtc(None))
    except CudaUnavailable:
        return None


_compiler = _nvrtc()
pytestmark = pytest.mark.skipif(_compiler is None, reason="NVRTC tests: nvidia-cuda-nvrtc is not installed")
FILES = sorted({entry.file for entry in ENTRIES.values()})


@cache
def _compiled(file: str, shape: FieldSizes | None, architecture: int) -> dict[str, Resources]:
    assert _compiler is not None
    name = next(name for name, entry in ENTRIES.items() if entry.file == file)
    result = _compiler.compile(program_of(name, shape), f"sm_{architecture}")
    assert result.code[:4] == b"\x7fELF"
    return resources_of(result.log)


def _check(file: str, shape: FieldSizes | None, architecture: int) -> None:
    found = _compiled(file, shape, architecture)
    expected = {name for name, entry in ENTRIES.items() if entry.file == file}
    assert expected <= set(found)
    for name in expected:
        used = found[name]
        assert used.spill_bytes == 0, f"{name} spills {used.spill_bytes} bytes"
        assert used.registers <= REGISTERS[name], f"{name} takes {used.registers} registers"
        assert used.shared_bytes <= STATIC_SHARED


def _is_shaped(file: str) -> bool:
    return any(entry.is_shaped for entry in ENTRIES.values() if entry.file == file)


@pytest.mark.parametrize("architecture", COMMON)
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_compiles_within_its_limits(file: str, architecture: int) -> None:
    _check(file, DEFAULT if _is_shaped(file) else None, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", RARE)
@pytest.mark.parametrize("file", FILES)
def test_other_architectures(file: str, architecture: int) -> None:
    _check(file, DEFAULT if _is_shaped(file) else None, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [FAST, SMALL, WIDE], ids=["L8 F4", "narrow", "wide"])
@pytest.mark.parametrize("file", [file for file in FILES if _is_shaped(file)])
def test_other_fields(file: str, shape: FieldSizes) -> None:
    found = _compiled(file, shape, 90)
    for name, entry in ENTRIES.items():
        if entry.file == file:
            limit = 255 if shape is WIDE else REGISTERS[name]
            assert found[name].registers <= limit, f"{name} takes {found[name].registers} registers"
            assert found[name].spill_bytes == 0 or shape is WIDE, f"{name} spills {found[name].spill_bytes} bytes"


def test_the_compiler_knows_the_architectures_we_promise() -> None:
    assert _compiler is not None and set(COMMON + RARE) <= set(_compiler.architectures())


def test_a_real_error_is_one_line_with_its_place() -> None:
    assert _compiler is not None
    broken = Program(
        "broken.cu", '#include "part.cuh"\nextern "C" __global__ void f() { y = 1; }', {"part.cuh": "// ok"}
    )
    with pytest.raises(CompileError, match=r"broken.cu\(2\).*\"y\" is undefined") as caught:
        _compiler.compile(broken, "sm_90")
    assert "\n" not in caught.value.line


def test_kernels_have_limits() -> None:
    assert set(REGISTERS) == set(ENTRIES)
