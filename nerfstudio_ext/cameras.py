"""Cameras and the rays through their pixels.

Axes are OpenCV's (x right, y down, z forward), pixel centres lie at +0.5, lengths are scene units.
Lens models live in `lenses`; this module adds pose, size and batching.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .errors import UserError
from .lenses import LENS_KINDS, N_LENS_PARAMS, Lens, project_points, unproject_pixels
from .rays import Rays

MAX_SIDE = 1_000_000
"""Pixels along a side that readers believe; the largest cameras and stitched panoramas stay far below."""


@dataclass(frozen=True)
class Camera:
    """One camera: image size, intrinsics, lens and pose.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        K: Intrinsics in pixels, [3,3] float64 on the CPU. Ignored by an equirectangular lens.
        c2w: Camera-to-world, [3,4] float64 on the CPU, OpenCV axes, orthonormal rotation.
        lens: Lens model and its coefficients.
    """

    width: int
    height: int
    K: Float[Tensor, "3 3"]
    c2w: Float[Tensor, "3 4"]
    lens: Lens = Lens()

    @classmethod
    def perspective(cls, width: int, height: int, fov_y_deg: float, c2w: Tensor) -> Camera:
        """A pinhole camera from its vertical field of view, principal point in the centre."""
        focal = 0.5 * height / torch.tan(torch.deg2rad(torch.tensor(fov_y_deg, dtype=torch.float64)) / 2)
        K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
        return cls(width, height, K, c2w.to(torch.float64))

    def resize(self, width: int, height: int) -> Camera:
        """The same view with another number of pixels; each axis is scaled on its own."""
        if width < 1 or height < 1:
            raise UserError(f"camera size {width}x{height} is not positive", fix="Use at least 1x1 pixels")
        scale = torch.tensor([width / self.width, height / self.height, 1.0], dtype=torch.float64)
        return dataclasses.replace(self, width=width, height=height, K=scale[:, None] * self.K)

    def crop(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera whose image is the given rectangle of this one's (perspective and fisheye lenses)."""
        if self.lens.kind == "equirectangular":
            raise UserError("an equirectangular camera cannot be cropped", fix="Render it whole")
        K = self.K.clone()
        K[0, 2] -= left
        K[1, 2] -= top
        return dataclasses.replace(self, width=width, height=height, K=K)

    def pixel_centres(
        self, first: int = 0, last: int | None = None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "P 2"]:
        """Pixel centres row by row, float32: all, or those from number `first` up to `last`."""
        end = min(self.width * self.height, last if last is not None else 1 << 62)
        numbers = torch.arange(first, end, device=device)
        row = numbers // self.width
        return torch.stack([numbers - row * self.width, row], -1).to(torch.float32) + 0.5

    def rays_through(self, uv: Float[Tensor, "R 2"]) -> Rays:
        """Rays through pixel positions; see `Cameras.rays_through`."""
        n = len(uv)
        size = torch.tensor([self.width, self.height], dtype=uv.dtype, device=uv.device)
        # What all rays share is broadcast and not gathered for each, and each ray is computed by itself: a picture
        # in parts has the same rays to the last bit.
        intrinsics, lens = intrinsics_of(self).to(uv).expand(n, 4), self.lens.tensor().to(uv).expand(n, N_LENS_PARAMS)
        local = unproject_pixels(self.lens.kind, uv, intrinsics, lens, size.expand(n, 2))
        c2w = self.c2w.to(uv)
        along = local[:, 0:1] * c2w[:, 0] + local[:, 1:2] * c2w[:, 1] + local[:, 2:3] * c2w[:, 2]
        rays_d = torch.nn.functional.normalize(along, dim=-1)
        near = torch.zeros(n, dtype=uv.dtype, device=uv.device)
        return Rays(c2w[:, 3].expand(n, 3).contiguous(), rays_d, near, torch.full_like(near, float("inf")))

    def rays(self, first: int = 0, last: int | None = None, device: torch.device | str = "cpu") -> Rays:
        """The rays of every pixel, row by row, or of those from number `first` up to `last`; made on a device."""
        return self.rays_through(self.pixel_centres(first, last, device))

    def project(self, x: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " N"]]:
        """Pixel positions of world points and their depth along the camera's z axis.

        Points behind a perspective camera get a depth <= 0 and a meaningless pixel: test the depth.
        """
        c2w = self.c2w.to(x)
        local = (x - c2w[:, 3]) @ c2w[:, :3]
        intrinsics = intrinsics_of(self).to(x)
        size = torch.tensor([self.width, self.height], dtype=x.dtype, device=x.device)
        uv = project_points(self.lens.kind, local, intrinsics, self.lens.tensor().to(x), size)
        return uv, local[:, 2]


def intrinsics_of(camera: Camera) -> Float[Tensor, "4"]:
    """(fx, fy, cx, cy) of a camera."""
    return torch.stack([camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]])


class Cameras:
    """An immutable sequence of cameras with stacked tensors, for rays through many of them at once.

    Attributes:
        c2w: [V,3,4] float64.
        intrinsics: [V,4] float64, (fx, fy, cx, cy) in pixels.
        sizes: [V,2] int64, (width, height).
        lens_params: [V,6] float64.
        lens_kinds: [V] int64, index into `lenses.LENS_KINDS`.
    """

    def __init__(self, cameras: list[Camera] | tuple[Camera, ...]) -> None:
        self._cameras = tuple(cameras)
        n = len(self._cameras)
        f64 = torch.float64
        self.c2w = torch.stack([c.c2w for c in cameras]).to(f64) if n else torch.zeros(0, 3, 4, dtype=f64)
        self.intrinsics = torch.stack([intrinsics_of(c) for c in cameras]) if n else torch.zeros(0, 4, dtype=f64)
        self.sizes = torch.tensor([[c.width, c.height] for c in cameras], dtype=torch.int64).reshape(n, 2)
        self.lens_params = (
            torch.stack([c.lens.tensor() for c in cameras]) if n else torch.zeros(0, N_LENS_PARAMS, dtype=f64)
        )
        self.lens_kinds = torch.tensor([LENS_KINDS.index(c.lens.kind) for c in cameras], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._cameras)

    @overload
    def __getitem__(self, index: int) -> Camera: ...
    @overload
    def __getitem__(self, index: slice) -> Cameras: ...
    def __getitem__(self, index: int | slice) -> Camera | Cameras:
        if isinstance(index, slice):
            return Cameras(self._cameras[index])
        return self._cameras[index]

    def __iter__(self) -> Iterator[Camera]:
        return iter(self._cameras)

    def select(self, indices: list[int] | tuple[int, ...]) -> Cameras:
        """The cameras at the given positions, in that order."""
        return Cameras([self._cameras[i] for i in indices])

    def transformed(self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], scale: float) -> Cameras:
        """The cameras after the similarity x -> scale * rotation @ x + translation of the world."""
        moved = []
        for camera in self._cameras:
            c2w = torch.empty(3, 4, dtype=torch.float64)
            c2w[:, :3] = rotation @ camera.c2w[:, :3]
            c2w[:, 3] = scale * (rotation @ camera.c2w[:, 3]) + translation
            moved.append(dataclasses.replace(camera, c2w=c2w))
        return Cameras(moved)

    def rays_through(self, cam_ids: Int64[Tensor, " R"], uv: Float[Tensor, "R 2"], t_min: float = 0.0) -> Rays:
        """Rays through pixel positions of several cameras.

        Args:
            cam_ids: Camera of each ray.
            uv: Pixel positions (column, row); the centre of the first pixel is (0.5, 0.5).
            t_min: Where every ray starts, scene units.
        Returns:
            Rays in the dtype and on the device of `uv`, with `t_max = inf`.
        """
        dtype, device = uv.dtype, uv.device
        kinds = self.lens_kinds[cam_ids.cpu()].to(device)
        intrinsics = self.intrinsics.to(device, dtype)[cam_ids]
        params = self.lens_params.to(device, dtype)[cam_ids]
        sizes = self.sizes.to(device, dtype)[cam_ids]
        present = torch.unique(self.lens_kinds).tolist()
        if len(present) == 1:
            local = unproject_pixels(LENS_KINDS[present[0]], uv, intrinsics, params, sizes)
        else:
            local = torch.zeros(len(uv), 3, dtype=dtype, device=device)
            for kind in present:
                chosen = kinds == kind
                local[chosen] = unproject_pixels(
                    LENS_KINDS[kind], uv[chosen], intrinsics[chosen], params[chosen], sizes[chosen]
                )
        c2w = self.c2w.to(device, dtype)[cam_ids]
        rays_d = torch.nn.functional.normalize((c2w[:, :, :3] @ local[:, :, None])[:, :, 0], dim=-1)
        near = torch.full((len(uv),), t_min, dtype=dtype, device=device)
        return Rays(c2w[:, :, 3].contiguous(), rays_d, near, torch.full_like(near, float("inf")))
