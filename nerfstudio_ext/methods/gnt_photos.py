"""The source pictures of a capture as GNT uses them: reduced, without lens distortion, on the capture's background.

They are part of a trained GNT: without them nothing can be rendered. A run keeps them in a file of its own
(`training/photos.py`), since they do not change while the weights do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ..cameras import Camera
from ..errors import UserError
from ..fields.epipolar import SourceCameras
from ..fields.feature_net import SMALLEST_SIDE
from ..lenses import Lens
from ..scenes.model import Scene, SceneMeta

FEWEST = 2
"""One view shows nothing of depth."""


@dataclass(frozen=True)
class Photos:
    """The training pictures of a capture.

    Attributes:
        pictures: [3,h,w] each, 8 bits.
        cameras: Their pinhole cameras in the training frame, at the pictures' sizes.
        positions: Position of each in the capture.
    """

    pictures: tuple[UInt8[Tensor, "3 h w"], ...]
    cameras: tuple[Camera, ...]
    positions: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.pictures) < FEWEST:
            raise UserError(
                f"GNT needs at least {FEWEST} source pictures, there are {len(self.pictures)}",
                fix="Use more photos, or hold out fewer with --split-every",
            )

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def centres(self) -> Float[Tensor, "N 3"]:
        """Camera centres, training frame."""
        return torch.stack([camera.c2w[:, 3] for camera in self.cameras])

    @property
    def poses(self) -> Float[Tensor, "N 3 4"]:
        """Camera to world of all."""
        return torch.stack([camera.c2w for camera in self.cameras])

    def source_cameras(self, chosen: Sequence[int]) -> SourceCameras:
        """Some of the cameras for projection."""
        return source_cameras([self.cameras[i] for i in chosen])

    def tensors(self) -> dict[str, Tensor]:
        """The pictures by their position in the capture; the cameras are those of the capture."""
        return {str(at): picture for at, picture in zip(self.positions, self.pictures, strict=True)}


def photos_of_scene(scene: Scene, max_side: int) -> Photos:
    """The training pictures of a capture.

    Args:
        scene: The capture.
        max_side: Pictures are reduced until no side is longer.
    Raises:
        UserError: for fewer than two pictures, panoramas, or pictures with a side below 17 pixels.
    """
    meta = scene.meta
    pictures, cameras = [], []
    for at in meta.split.train:
        camera = _source_camera(meta, at, max_side)
        pixels = torch.from_numpy(np.array(scene.images.pixels(at))).permute(2, 0, 1).float() / 255
        if pixels.shape[0] == 4:
            background = torch.tensor(meta.background)[:, None, None]
            pixels = pixels[:3] * pixels[3:] + (1 - pixels[3:]) * background
        picture = functional.interpolate(pixels[None], (camera.height, camera.width), mode="area")[0]
        pictures.append((picture * 255).round().to(torch.uint8))
        if camera.lens.kind != "perspective":
            pictures[-1] = _straightened(pictures[-1], camera)
        cameras.append(dataclasses.replace(camera, lens=Lens()))
    return Photos(tuple(pictures), tuple(cameras), meta.split.train)


def photos_from_tensors(meta: SceneMeta, tensors: Mapping[str, Tensor], max_side: int) -> Photos:
    """Read what `Photos.tensors` returned, for the same capture.

    Raises:
        UserError: if a picture is missing or has another size than its camera says.
    """
    pictures, cameras = [], []
    for at in meta.split.train:
        camera = _source_camera(meta, at, max_side)
        picture = tensors.get(str(at))
        if picture is None or picture.shape != (3, camera.height, camera.width) or picture.dtype != torch.uint8:
            raise UserError(
                f"the source picture of '{meta.image_names[at]}' is missing or has another size",
                fix="Restore the capture's pictures",
            )
        pictures.append(picture)
        cameras.append(dataclasses.replace(camera, lens=Lens()))
    return Photos(tuple(pictures), tuple(cameras), meta.split.train)


def source_cameras(cameras: Sequence[Camera]) -> SourceCameras:
    """Cameras for projection: float32, positions in the array instead of pixel positions."""
    K = torch.stack([camera.K for camera in cameras]).clone()
    K[:, :2, 2] -= 0.5
    sizes = torch.tensor([[camera.width, camera.height] for camera in cameras])
    return SourceCameras(K.float(), torch.stack([camera.c2w for camera in cameras]).float(), sizes.float())


def _source_camera(meta: SceneMeta, at: int, max_side: int) -> Camera:
    camera = meta.frame.to_training(meta.cameras.select([at]))[0]
    if camera.lens.kind == "equirectangular":
        raise UserError(
            "GNT cannot use panoramas as sources", where=meta.image_names[at], fix="Cut them into ordinary pictures"
        )
    factor = min(1.0, max_side / max(camera.width, camera.height))
    width, height = max(round(camera.width * factor), 1), max(round(camera.height * factor), 1)
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(
            f"{width}x{height} pixels are too few for GNT", where=meta.image_names[at],
            fix=f"Use pictures of at least {SMALLEST_SIDE} pixels a side",
        )  # fmt: skip
    return camera.resize(width, height)


def _straightened(picture: UInt8[Tensor, "3 h w"], camera: Camera) -> UInt8[Tensor, "3 h w"]:
    """What a pinhole camera of the same matrix would have seen; black where the photo does not reach."""
    at_origin = dataclasses.replace(camera, c2w=torch.eye(3, 4, dtype=torch.float64))
    pinhole = dataclasses.replace(at_origin, lens=Lens())
    uv, _ = at_origin.project(pinhole.rays_through(pinhole.pixel_centres().double()).rays_d)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    grid = (2 * uv / size - 1).float().view(1, camera.height, camera.width, 2)
    straight = functional.grid_sample(picture[None].float(), grid, align_corners=False)[0]
    return straight.round().to(torch.uint8)
