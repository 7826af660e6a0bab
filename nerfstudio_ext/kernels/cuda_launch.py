"""From a kernel's name and arguments to its launch: its source file, its specialisation, its number of blocks."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping
from ctypes import Structure
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from . import rtc
from .cuda_sizes import FieldSizes
from .rtc_compile import Program

CSRC = Path(__file__).parent / "csrc"
MAX_LEVELS, MAX_WIDTH, MAX_FEATURES = 16, 128, 64
FEATURES_PER_LEVEL = (1, 2, 4, 8)


def sizes_of(levels: int, features: int, hidden: int, color_hidden: int) -> FieldSizes:
    """What the kernels are compiled for.

    Raises:
        UserError: if they cannot be built for such a field.
    """
    width_is_known = all(width % 16 == 0 and 16 <= width <= MAX_WIDTH for width in (hidden, color_hidden))
    grid_is_known = features in FEATURES_PER_LEVEL and 1 <= levels <= MAX_LEVELS
    if not (width_is_known and grid_is_known and levels * features <= MAX_FEATURES):
        raise UserError(
            f"the CUDA kernels have no field of {levels} levels with {features} features and widths {hidden} and "
            f"{color_hidden}",
            fix=f"Use at most {MAX_LEVELS} levels, {MAX_FEATURES} features in all, widths of 16 to {MAX_WIDTH} in "
            "steps of 16, or --backend reference",
        )
    return FieldSizes(levels, features, hidden, color_hidden)


@dataclass(frozen=True)
class Entry:
    """How a kernel is compiled and launched.

    Attributes:
        file: Source file.
        threads: Threads per block; 0 where `plan` says.
        items: Work items per block; 0 for kernels that loop over a count they read on the device.
        per_processor: Most blocks per multiprocessor; 0 for as many as the items need.
        is_shaped: Whether it is compiled for the sizes of a field.
        plan: For kernels with large shared memory: "forward", "render" or "backward", see `Launcher.plan`.
    """

    file: str
    threads: int
    items: int = 0
    per_processor: int = 0
    is_shaped: bool = False
    plan: str = ""


ENTRIES: Mapping[str, Entry] = {
    "march_count": Entry("march.cu", 128, 128),
    "scan_counts": Entry("march.cu", 1024),
    "march_write": Entry("march.cu", 128, 128),
    "field_forward": Entry("field.cu", 0, is_shaped=True, plan="forward"),
    "field_along": Entry("field.cu", 0, is_shaped=True, plan="forward"),
    "field_density": Entry("field.cu", 0, is_shaped=True, plan="forward"),
    "step_loss": Entry("composite.cu", 128, 4),
    "list_seen": Entry("composite.cu", 128, 4),
    "field_backward": Entry("backward.cu", 0, is_shaped=True, plan="backward"),
    "reduce_networks": Entry("backward.cu", 256, 256, 0, True),
    "pack_networks": Entry("pack.cu", 256, 256, 0, True),
    "cast_table": Entry("adam.cu", 256, 512),
    "grid_backward": Entry("grid.cu", 128, 0, 8, True),
    "grid_positions": Entry("grid.cu", 128, 0, 8, True),
    "table_to_float": Entry("grid.cu", 256, 256, 0, True),
    "hash_forward": Entry("hash.cu", 128, 128, 16, True),
    "hash_backward": Entry("hash.cu", 128, 128, 16, True),
    "hash_positions": Entry("hash.cu", 128, 128, 16, True),
    "ray_box": Entry("rays.cu", 256, 256),
    "composite": Entry("rays.cu", 128, 4),
    "composite_backward": Entry("rays.cu", 128, 4),
    "count_bad": Entry("adam.cu", 256, 256, 8),
    "adam_clock": Entry("adam.cu", 32),
    "adam": Entry("adam.cu", 256, 512),
    "render_fused": Entry("render.cu", 0, is_shaped=True, plan="render"),
    "occ_decay": Entry("occupancy.cu", 256, 256),
    "occ_raise": Entry("occupancy.cu", 256, 256),
    "occ_pack": Entry("occupancy.cu", 256, 8),
    "occ_population": Entry("occupancy.cu", 256, 256),
    "occ_select": Entry("occupancy.cu", 256, 256),
}
"""Every kernel by name."""


@functools.cache
def sources() -> dict[str, str]:
    """Text of all source files, by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(CSRC.glob("*.cu*"))}


def program_of(name: str, shape: FieldSizes | None = None, *, deterministic: bool = False) -> Program:
    """The program that holds a kernel, specialised for a shape where it depends on one."""
    entry, texts = ENTRIES[name], sources()
    options = shape.defines if entry.is_shaped and shape is not None else ()
    if deterministic and entry.file == "grid.cu":
        options = (*options, "-DDETERMINISTIC")
    headers = {file: text for file, text in texts.items() if file.endswith(".cuh")}
    return Program(entry.file, texts[entry.file], headers, options=options)


class Launchable(Protocol):
    """What a loaded kernel offers; see `rtc.Kernel`."""

    def __call__(self, grid: int, block: int, *arguments: object, shared_bytes: int = 0) -> None:
        """Queue it."""


class Launcher:
    """Launches kernels on one device.

    Args:
        device: The device, with its number.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.processors = torch.cuda.get_device_properties(device).multi_processor_count
        shared = rtc.toolchain().driver.shared_memory(device.index or 0)
        self.shared_per_block, self.shared_per_processor = shared
        self._kernels: dict[tuple[str, FieldSizes | None, bool], Launchable] = {}

    def load(self, name: str, shape: FieldSizes | None, deterministic: bool) -> Launchable:
        """The kernel, compiled and loaded; asked once for each combination."""
        return rtc.module(program_of(name, shape, deterministic=deterministic), self.device)[name]

    def __call__(
        self,
        name: str,
        arguments: Structure,
        n: int | None = None,
        shape: FieldSizes | None = None,
        *,
        deterministic: bool = False,
    ) -> None:
        """Queue a kernel on torch's current stream.

        Args:
            name: A key of `ENTRIES`.
            arguments: Its structure of `cuda_params`.
            n: Work items; None where the kernel counts on the device.
            shape: Sizes of the field, where the kernel depends on them.
            deterministic: Take the version that adds up in a fixed order.
        """
        entry = ENTRIES[name]
        key = (name, shape if entry.is_shaped else None, deterministic and entry.file == "grid.cu")
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self.load(*key)
        blocks, threads, shared = self.plan(entry, n, shape)
        kernel(blocks, threads, arguments, shared_bytes=shared)

    def plan(self, entry: Entry, n: int | None, shape: FieldSizes | None) -> tuple[int, int, int]:
        """Blocks, threads per block and bytes of dynamic shared memory for so many items."""
        if not entry.plan:
            if n is None:
                return max(self.processors * entry.per_processor, 1), entry.threads, 0
            needed = -(-n // entry.items)
            most = self.processors * entry.per_processor
            return min(needed, most) if most else needed, entry.threads, 0
        assert shape is not None, f"{entry.file} depends on the sizes of a field"
        if entry.plan == "backward":
            return self.processors, 32 * shape.backward_warps, shape.backward_shared
        choose = shape.forward_launch if entry.plan == "forward" else shape.render_launch
        chosen = choose(self.shared_per_block, self.shared_per_processor)
        # A second wave of blocks that loop would share the work unevenly.
        most = self.processors * chosen.per_processor
        return most if n is None else min(most, -(-n // chosen.threads)), chosen.threads, chosen.shared

    def fitted(self, shape: FieldSizes) -> FieldSizes:
        """The sizes with as many warps in the backward pass as the device's shared memory holds."""
        while shape.backward_shared > self.shared_per_block and shape.backward_warps > 1:
            shape = dataclasses.replace(shape, backward_warps=shape.backward_warps // 2)
        return shape


_launchers: dict[torch.device, Launcher] = {}
_lock = threading.Lock()


def launcher(device: torch.device) -> Launcher:
    """The launcher of a device."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _lock:
        if device not in _launchers:
            _launchers[device] = Launcher(device)
        return _launchers[device]


def pointer(tensor: Tensor | None, *dtypes: torch.dtype) -> int | None:
    """Device address of a contiguous tensor of one of these types; None stays None.

    Raises:
        ValueError: if it is anything else: a kernel would read wrong memory.
    """
    if tensor is None:
        return None
    if tensor.dtype not in dtypes or not tensor.is_contiguous():
        found = f"{tensor.dtype} {list(tensor.shape)} with strides {tensor.stride()}"
        raise ValueError(f"a kernel needs contiguous {' or '.join(map(str, dtypes))}, got {found}")
    return tensor.data_ptr()


def floats(tensor: Tensor | None) -> int | None:
    """Address of float32 values."""
    return pointer(tensor, torch.float32)


def words(tensor: Tensor | None) -> int | None:
    """Address of 32-bit words: counts, half pairs, ray numbers."""
    return pointer(tensor, torch.int32)


def longs(tensor: Tensor | None) -> int | None:
    """Address of 64-bit words."""
    return pointer(tensor, torch.int64)
