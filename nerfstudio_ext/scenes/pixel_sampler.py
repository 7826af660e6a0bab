"""The stream of training pixels: which camera, which pixel, what colour; seeded and resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError
from ..rays import Rays
from .images import ImageStore
from .model import Scene
from .picture_memory import fetch_rows, let_go, mapped_array

MAX_TABLE_PIXELS = 8_000_000
"""Directions kept per pixel, 12 bytes each: at most 96 MB; captures with a lens per picture compute them instead."""


@dataclass(frozen=True)
class PixelBatch:
    """R pixels of a capture, in random order.

    Attributes:
        cam_ids: Position of the picture in the scene.
        uv: Pixel centres (column, row), +0.5.
        rgb: Colour 0..1, straight (not multiplied by alpha).
        alpha: Opacity 0..1, or None when the capture has none.
    """

    cam_ids: Int64[Tensor, " R"]
    uv: Float[Tensor, "R 2"]
    rgb: Float[Tensor, "R 3"]
    alpha: Float[Tensor, " R"] | None

    def __len__(self) -> int:
        return self.cam_ids.shape[0]

    def to(self, device: torch.device | str) -> PixelBatch:
        """The same batch, of the same kind, on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: v.to(device) for name, v in tensors.items() if isinstance(v, Tensor)})


class PixelSampler:
    """Draws pixels uniformly, with replacement, from all usable pixels of some pictures of a scene.

    Args:
        scene: The capture.
        indices: Positions of the pictures to draw from.
        seed: Seed of the sampler's own random generator.
    Raises:
        UserError: if there is no usable pixel.
    """

    def __init__(self, scene: Scene, indices: Sequence[int], seed: int) -> None:
        self._images = scene.images
        self._has_alpha = scene.meta.has_alpha
        self._cameras = scene.meta.training_cameras()
        self._ray_table = _RayTable(self._cameras, sorted(set(indices)))
        self._pool = _PixelPool(scene.images, sorted(set(indices)))
        self._generator = torch.Generator().manual_seed(seed)
        if self._pool.n_pixels == 0:
            raise UserError("no usable pixels: the masks leave nothing", where=scene.meta.name, fix="Check the masks")

    @property
    def n_pixels(self) -> int:
        """Usable pixels the sampler draws from."""
        return self._pool.n_pixels

    def next(self, n_rays: int) -> PixelBatch:
        """Draw the next `n_rays` pixels."""
        return self.next_part(n_rays, slice(None))

    def next_part(self, n_rays: int, part: slice) -> PixelBatch:
        """Draw the next `n_rays` pixels, and look up those of a part of them."""
        drawn = torch.randint(self._pool.n_pixels, (n_rays,), generator=self._generator)[part]
        cam_ids, flat = self._pool.locate(drawn)
        widths = self._pool.widths(cam_ids)
        v = _floor_divide(flat, widths)
        uv = torch.stack([flat - v * widths, v], -1).to(torch.float32).add_(0.5)
        values = self._images.gather_flat(cam_ids, flat).to(torch.float32).mul_(1 / 255)
        alpha = values[:, 3].contiguous() if self._has_alpha else None
        return PixelBatch(cam_ids, uv, values[:, :3].contiguous(), alpha)

    def rays(self, batch: PixelBatch) -> Rays:
        """The rays of a batch, in the training frame: what `Cameras.rays_through` returns, faster."""
        return self._ray_table.rays(batch.cam_ids, batch.uv)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random generator: what the same stream needs to go on bit by bit."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue the stream of `state_dict()`."""
        self._generator.set_state(state["generator"])


class _PixelPool:
    """Numbers all usable pixels of some pictures from 0 and finds them again."""

    def __init__(self, images: ImageStore, indices: Sequence[int]) -> None:
        self._width_of = images.sizes[:, 0].contiguous()
        lists = [images.valid_pixels(i) for i in indices]
        sizes = images.sizes[list(indices)].prod(-1).tolist() if indices else []
        counts = [size if valid is None else len(valid) for size, valid in zip(sizes, lists, strict=True)]
        self._cam_ids = torch.tensor(list(indices), dtype=torch.int64)
        self._starts = torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64)
        self.n_pixels = int(self._starts[-1])
        self._equal = counts[0] if counts and len(set(counts)) == 1 else 0
        self._same_width = (
            int(self._width_of[indices[0]]) if len(set(self._width_of[list(indices)].tolist())) == 1 else 0
        )
        self._valid: Tensor | None = None
        self._valid_offsets = torch.zeros(0, dtype=torch.int64)
        if any(valid is not None for valid in lists):
            self._positions = _joined(images, lists, sizes, counts)
            self._valid = torch.from_numpy(self._positions)

    def locate(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Picture and position within it of pixels drawn by number."""
        if self._equal:
            order = _floor_divide(drawn, self._equal)
        else:
            order = torch.searchsorted(self._starts, drawn, right=True).sub_(1)
        cam_ids = self._cam_ids.index_select(0, order)
        if self._valid is not None:
            fetch_rows(self._positions, drawn.numpy())
            return cam_ids, self._valid.index_select(0, drawn).to(torch.int64)
        return cam_ids, drawn - (order * self._equal if self._equal else self._starts.index_select(0, order))

    def widths(self, cam_ids: Tensor) -> Tensor | int:
        """Widths of pictures: one number where all have the same."""
        return self._same_width or self._width_of.index_select(0, cam_ids)


def _joined(
    images: ImageStore, lists: Sequence[np.ndarray | None], sizes: Sequence[int], counts: Sequence[int]
) -> Int32[np.ndarray, " n"]:
    """Positions of the usable pixels of all pictures one after the other; in a file where the pixels are in one."""
    shape = (sum(counts),)
    joined = mapped_array(shape, np.int32, images.folder) if images.is_mapped else np.empty(shape, np.int32)
    start = 0
    for listed, size, count in zip(lists, sizes, counts, strict=True):
        joined[start : start + count] = np.arange(size, dtype=np.int32) if listed is None else listed
        let_go(joined, start, start + count)
        start += count
    return joined


class _RayTable:
    """Rays through pixel centres, with the undistorted directions looked up where pictures share a lens."""

    def __init__(self, cameras: Cameras, indices: Sequence[int]) -> None:
        self._cameras = cameras
        # Columns of the rotation one after the other, then the position: one look-up per ray.
        self._poses = cameras.c2w.transpose(1, 2).reshape(-1, 12).to(torch.float32).contiguous()
        self._widths = cameras.sizes[:, 0].contiguous()
        self._one_width = 0
        groups: dict[tuple[object, ...], list[int]] = {}
        for i in indices:
            groups.setdefault(_lens_key(cameras[i]), []).append(i)
        n_pixels = sum(cameras[group[0]].width * cameras[group[0]].height for group in groups.values())
        self._directions: Tensor | None = None
        if n_pixels <= MAX_TABLE_PIXELS:
            self._directions = self._build(list(groups.values()))

    def _build(self, groups: list[list[int]]) -> Tensor:
        if len(groups) == 1:
            self._one_width = self._cameras[groups[0][0]].width
        self._starts = torch.zeros(len(self._cameras), dtype=torch.int64)
        tables, start = [], 0
        for group in groups:
            tables.append(_local_directions(self._cameras[group[0]]))
            self._starts[group] = start
            start += len(tables[-1])
        return torch.cat(tables) if tables else torch.zeros(0, 3)

    def rays(self, cam_ids: Tensor, uv: Tensor) -> Rays:
        if self._directions is None:
            return self._cameras.rays_through(cam_ids, uv)
        pixel = uv.to(torch.int64)
        if self._one_width:
            index = pixel[:, 1] * self._one_width + pixel[:, 0]
        else:
            starts, widths = self._starts.index_select(0, cam_ids), self._widths.index_select(0, cam_ids)
            index = starts + pixel[:, 1] * widths + pixel[:, 0]
        local = self._directions.index_select(0, index)
        pose = self._poses.index_select(0, cam_ids)
        # Column by column: a batched matrix product of this size costs five times as much.
        rays_d = pose[:, 0:3] * local[:, 0:1]
        rays_d.addcmul_(pose[:, 3:6], local[:, 1:2]).addcmul_(pose[:, 6:9], local[:, 2:3])
        t_min = torch.zeros(len(uv))
        return Rays(pose[:, 9:12].contiguous(), rays_d, t_min, torch.full_like(t_min, float("inf")))


def _floor_divide(numbers: Int64[Tensor, " R"], divisor: int | Int64[Tensor, " R"]) -> Int64[Tensor, " R"]:
    """`numbers // divisor` for numbers from 0 to 2^40, in float64: integer division takes several times as long.

    The half keeps exact multiples clear of rounding: the distance to the next integer is at least 0.5 / divisor.
    """
    return (numbers.to(torch.float64).add_(0.5) / divisor).to(torch.int64)


def _lens_key(camera: Camera) -> tuple[object, ...]:
    return (camera.width, camera.height, camera.lens, tuple(camera.K.flatten().tolist()))


def _local_directions(camera: Camera) -> Float[Tensor, "P 3"]:
    """Unit directions in camera axes through all pixel centres, computed in float64."""
    at_origin = Camera(camera.width, camera.height, camera.K, torch.eye(3, 4, dtype=torch.float64), camera.lens)
    rows = [at_origin.rays_through(part.to(torch.float64)).rays_d for part in camera.pixel_centres().split(1 << 18)]
    return torch.cat([r.to(torch.float32) for r in rows])
