"""Sizes that follow from a field's shape, as the CUDA sources compute them; `csrc/network.cuh` is the original."""

from __future__ import annotations

from dataclasses import dataclass

GEO, HARMONICS = 16, 16
_FORWARD_WARPS, _DIRECTION_STRIDE, _KEPT_WORDS = 4, 12, 13
_BACKWARD_ROW_GAP = 8


MOST_WARPS = 10
"""Warps of a block of the kernels that hold the matrices in shared memory; their registers are limited for it."""
_RESERVED_PER_BLOCK = 1024


@dataclass(frozen=True)
class Launch:
    """How to launch such a kernel.

    Attributes:
        threads: Threads per block.
        shared: Bytes of dynamic shared memory per block.
        per_processor: Blocks that one multiprocessor holds at once; more would wait and share the work unevenly.
    """

    threads: int
    shared: int
    per_processor: int


@dataclass(frozen=True)
class FieldSizes:
    """Shape of a field and what its kernels need.

    Attributes:
        levels: Levels of the hash grid.
        features: Features per level.
        hidden: Width of the density network.
        color_hidden: Width of the colour network.
        backward_warps: Warps of a block of `field_backward`.
    """

    levels: int
    features: int
    hidden: int
    color_hidden: int
    backward_warps: int = 8

    @property
    def defines(self) -> tuple[str, ...]:
        """Macros of the files that depend on the shape."""
        return (
            f"-DLEVELS={self.levels}", f"-DFEATURES={self.features}", f"-DHIDDEN={self.hidden}",
            f"-DCOLOR_HIDDEN={self.color_hidden}", f"-DBACKWARD_WARPS={self.backward_warps}",
        )  # fmt: skip

    @property
    def feature_width(self) -> int:
        """Halves of a row of `features`: LEVELS * FEATURES in whole tiles of 16."""
        return -(-self.levels * self.features // 16) * 16

    @property
    def forward_words(self) -> int:
        """32-bit words of `FieldView.forward`."""
        f, h, c = self.feature_width, self.hidden, self.color_hidden
        return (f * h + h * GEO + (GEO + HARMONICS) * c + c * c + c * 8) // 2

    @property
    def backward_words(self) -> int:
        """32-bit words of `FieldView.backward`."""
        f, h, c = self.feature_width, self.hidden, self.color_hidden
        return (f * h + h * GEO + (GEO + HARMONICS) * c + c * c + 16 * c) // 2

    @property
    def n_partials(self) -> int:
        """Floats of a row of `FieldBackward.partials`: the parameters of all five matrices."""
        f, h, c = self.levels * self.features, self.hidden, self.color_hidden
        return f * h + h * GEO + (GEO + HARMONICS) * c + c * c + c * 3

    @property
    def forward_shared(self) -> int:
        """Dynamic shared memory of `field_forward` and `field_density` in blocks of four warps, bytes."""
        stage = 32 * (self.feature_width // 2 + 4)
        return 4 * (self.forward_words + _FORWARD_WARPS * (stage + 32 * _DIRECTION_STRIDE))

    @property
    def render_shared(self) -> int:
        """Dynamic shared memory of `render_fused` in blocks of four warps, bytes."""
        return self.forward_shared + 4 * _FORWARD_WARPS * 32 * _KEPT_WORDS

    def forward_launch(self, per_block: int, per_processor: int) -> Launch:
        """Blocks of `field_forward` and `field_density` on a device with so many bytes of shared memory."""
        return self._launch(self.forward_shared, per_block, per_processor)

    def render_launch(self, per_block: int, per_processor: int) -> Launch:
        """Blocks of `render_fused` on a device with so many bytes of shared memory."""
        return self._launch(self.render_shared, per_block, per_processor)

    def _launch(self, with_four_warps: int, per_block: int, per_processor: int) -> Launch:
        matrices = 4 * self.forward_words
        per_warp = (with_four_warps - matrices) // _FORWARD_WARPS
        warps = max(min(MOST_WARPS, (per_block - matrices) // per_warp), 1)
        shared = matrices + warps * per_warp
        most_blocks = 1 if max(self.hidden, self.color_hidden) > 64 else 2
        blocks = min(max(per_processor // (shared + _RESERVED_PER_BLOCK), 1), most_blocks)
        return Launch(32 * warps, shared, blocks)

    @property
    def backward_shared(self) -> int:
        """Dynamic shared memory of `field_backward`, bytes."""
        widest = max(self.feature_width, self.hidden, self.color_hidden, GEO + HARMONICS)
        return 2 * 2 * 16 * self.backward_warps * (widest + _BACKWARD_ROW_GAP)
