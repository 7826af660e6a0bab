"""Judging a scene by pictures it was not trained on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from ..camera_paths import file_stems
from ..colormaps import color_error
from ..errors import UserError
from ..metrics import has_lpips, lpips, psnr, ssim
from ..progress import Progress, SilentProgress
from ..renderer import CancelToken, Renderer
from ..scenes.model import Scene

SplitName = Literal["train", "val", "test"]
SCHEMA = 1


@dataclass(frozen=True)
class ImageScore:
    """How one image was met.

    Attributes:
        position: Position of the image in the capture.
        file: Its path relative to the capture.
        psnr: dB.
        ssim: -1..1.
        lpips: Perceptual distance, or None where its weights are not at hand.
    """

    position: int
    file: str
    psnr: float
    ssim: float
    lpips: float | None = None


@dataclass(frozen=True)
class EvalResult:
    """Scores of a split; every image that was looked at is listed.

    Attributes:
        method: Name of the method.
        split: "train", "val" or "test".
        per_image: One score per image.
        render_seconds: Wall time of rendering alone.
    """

    method: str
    split: str
    per_image: tuple[ImageScore, ...]
    render_seconds: float = 0.0

    @property
    def psnr(self) -> float:
        """Mean of the images' PSNR, dB."""
        return _mean([score.psnr for score in self.per_image])

    @property
    def ssim(self) -> float:
        """Mean of the images' SSIM."""
        return _mean([score.ssim for score in self.per_image])

    @property
    def lpips(self) -> float | None:
        """Mean of the images' LPIPS, or None where it could not be computed for all."""
        known = [score.lpips for score in self.per_image if score.lpips is not None]
        return _mean(known) if len(known) == len(self.per_image) else None

    def to_json(self) -> dict[str, object]:
        """The result as `nsx eval --json` prints it; `lpips` appears only where it was computed."""
        has = self.lpips is not None
        rows = [
            {"file": s.file, "psnr": s.psnr, "ssim": s.ssim} | ({"lpips": s.lpips} if has else {})
            for s in self.per_image
        ]
        summary: dict[str, object] = {
            "schema": SCHEMA,
            "method": self.method,
            "split": self.split,
            "n": len(rows),
            "psnr": self.psnr,
            "ssim": self.ssim,
        }
        return summary | ({"lpips": self.lpips} if has else {}) | {"per_image": rows}


def evaluate(
    renderer: Renderer,
    scene: Scene,
    split: SplitName = "test",
    max_images: int | None = None,
    output_dir: Path | None = None,
    *,
    method: str = "",
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    also: Callable[[Float[Tensor, "H W 3"], Float[Tensor, "H W 3"]], None] | None = None,
) -> EvalResult:
    """Render the images of a split and compare them with the photos.

    The render is compared as the renderer's floats clamped to 0..1, not rounded to 8 bits; the photo is its 8-bit
    values / 255. Photos with opacity are laid over the scene's background first. Masked pixels do not count, the
    photo is put in their place before SSIM is taken.

    Args:
        renderer: The scene under test; its background must be the capture's.
        scene: The capture.
        split: Which images.
        max_images: At most this many, spread evenly over the split; None takes all.
        output_dir: Gets `renders/NAME.png` and `errors/NAME.png` (absolute error, pale yellow is 0.25 or more).
        method: Name of the method, for the result.
        progress: Told about every image.
        cancel: Stops the work.
        also: Gets every render with its photo, to measure something else; masked pixels show the photo in both.
    Raises:
        UserError: if the split is empty or an image does not have its camera's size.
        Cancelled: when `cancel` was set.
    """
    meta, progress = scene.meta, progress or SilentProgress()
    positions = getattr(meta.split, split)
    picked = picked_images(positions, max_images, split)
    if meta.has_alpha and not np.allclose(renderer.background, meta.background, atol=1e-6):
        raise ValueError(f"renderer has background {renderer.background}, the capture has {meta.background}")
    cameras = meta.training_cameras()
    stems = dict(zip(positions, file_stems([meta.image_names[i] for i in positions]), strict=True))
    scores, seconds = [], 0.0
    progress.stage(f"evaluating {len(picked)} {split} images", len(picked))
    for done, i in enumerate(picked, start=1):
        started = time.perf_counter()
        image = renderer.render(cameras[i], cancel=cancel).rgb
        seconds += time.perf_counter() - started
        score = _score(image, scene, i)
        scores.append(score)
        if also is not None:
            truth, mask = truth_image(scene, i), usable_mask(scene, i)
            also(image if mask is None else torch.where(mask[..., None], image, truth), truth)
        if output_dir is not None:
            _write_pictures(image, truth_image(scene, i), output_dir, stems[i])
        progress.advance(done, f"{Path(score.file).name} {score.psnr:.2f} dB")
    return EvalResult(method, split, tuple(scores), seconds)


def picked_images(positions: tuple[int, ...], max_images: int | None, split: str) -> tuple[int, ...]:
    """The images to look at: all of a split, or `max_images` of them spread evenly, the first among them.

    Raises:
        UserError: if there are none.
    """
    if not positions:
        raise UserError(f"the {split} split has no images", fix="Evaluate another split")
    if max_images is None or max_images >= len(positions):
        return positions
    if max_images < 1:
        raise UserError(f"{max_images} images to evaluate", fix="Choose at least 1")
    return tuple(positions[i * len(positions) // max_images] for i in range(max_images))


def truth_image(scene: Scene, i: int) -> Float[Tensor, "H W 3"]:
    """The photo at a position as floats 0..1, laid over the scene's background where it has opacity."""
    pixels = torch.from_numpy(np.array(scene.images.pixels(i))).float() / 255
    if pixels.shape[2] < 4:
        return pixels
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + (1 - alpha) * torch.tensor(scene.meta.background)


def _score(image: Float[Tensor, "H W 3"], scene: Scene, i: int) -> ImageScore:
    name = scene.meta.image_names[i]
    truth = truth_image(scene, i)
    if image.shape != truth.shape:
        width, height = truth.shape[1], truth.shape[0]
        raise UserError(
            f"the photo has {width}x{height} pixels, its camera {image.shape[1]}x{image.shape[0]}",
            where=name,
            fix="Load the capture at the size it was trained with",
        )
    mask = usable_mask(scene, i)
    filled = image if mask is None else torch.where(mask[..., None], image, truth)
    perceptual = lpips(filled, truth) if has_lpips() else None
    return ImageScore(i, name, psnr(image, truth, mask), ssim(filled, truth, mask), perceptual)


def usable_mask(scene: Scene, i: int) -> Bool[Tensor, "H W"] | None:
    """Pixels of a photo that count; None for all."""
    valid = scene.images.valid_pixels(i)
    if valid is None:
        return None
    height, width = scene.images.pixels(i).shape[:2]
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[torch.from_numpy(np.asarray(valid, dtype=np.int64))] = True
    return mask.reshape(height, width)


def _write_pictures(image: Tensor, truth: Tensor, folder: Path, stem: str) -> None:
    error = color_error((image - truth).abs().mean(-1))
    try:
        for name, content in (("renders", image), ("errors", error)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            pixels = (content.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / name / f"{stem}.png")
    except OSError as why:
        raise UserError(f"cannot write: {why.strerror}", where=folder, fix="Choose a folder you may write to") from why


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
