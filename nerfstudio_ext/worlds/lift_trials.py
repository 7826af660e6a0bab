"""Lifting one drawn thing from its front alone, and how right its unseen sides are: the truth is known here."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..methods.lift import Lift
from ..methods.lift_batches import Photo
from ..methods.lift_config import LiftConfig
from ..methods.priors import Prior
from ..renderer import RayRenderer
from ..scenes.prepared import DISTANCE, FOV_Y_DEG, PreparedNotes, PreparedPhoto, camera_around
from ..training.guard import StepGuard
from ..training.stepper import Stepper
from .things import FRONT_ELEVATION_DEG, Thing, is_inside, photograph

logger = logging.getLogger(__name__)
EVALUATED_ELEVATION_DEG = 20.0
EVALUATED_AZIMUTHS_DEG = tuple(15.0 + 30 * i for i in range(12))
"""Between the views that a finite set of pictures is known from."""
BACK_DEG = 45.0
"""Half the width of the sector that counts as the back."""
CELLS = 48
"""Cells per axis in which volumes are compared."""
SOLID_DENSITY = 10.0
"""Density per scene unit from which a cell counts: a tenth of the box of it lets a third of the light through."""


@dataclass(frozen=True)
class Findings:
    """How one lifted thing compares with the truth.

    Attributes:
        front_psnr: From where the photo was taken, dB.
        novel_psnr: Mean over the evaluated views, dB.
        back_psnr: Mean over those from behind, dB.
        mask_iou: Mean overlap of silhouettes over the evaluated views.
        back_hue_error_deg: Between the mean hues of the back, 0..180; 90 where nothing is seen.
        iou: Overlap of the volumes; cavities that nothing reaches from outside count as filled.
        seconds: Wall time of the lifting.
        cpu_seconds: Processor time of it.
    """

    front_psnr: float
    novel_psnr: float
    back_psnr: float
    mask_iou: float
    back_hue_error_deg: float
    iou: float
    seconds: float
    cpu_seconds: float


def photo_of(thing: Thing, side: int, class_name: str = "") -> Photo:
    """The front of a thing with its depth, as a prepared photo at the training size is."""
    rgba, depth = photograph(thing, 0.0, FRONT_ELEVATION_DEG, side)
    alpha = rgba[..., 3:]
    straight = np.concatenate([rgba[..., :3] / np.maximum(alpha, 1e-4), alpha], -1)
    is_known = np.isfinite(depth) & (alpha[..., 0] > 0.95)
    known = torch.from_numpy(np.where(is_known, depth, np.nan)).float()
    notes = PreparedNotes(elevation_deg=FRONT_ELEVATION_DEG, class_name=class_name)
    return Photo(torch.from_numpy(straight).float().permute(2, 0, 1), known, notes)


def lift(photo: Photo, config: LiftConfig, prior: Prior, seed: int = 0) -> tuple[Lift, float, float]:
    """Lift a photo; returns the method, and wall and processor seconds."""
    side = photo.rgba.shape[-1]
    meta = PreparedPhoto(np.zeros((side, side, 4), np.uint8), None, photo.notes).scene("thing", Path()).meta
    method = Lift(config, meta, seed=seed, prior=prior)
    stepper = Stepper(method, method.batches_of(photo, seed), StepGuard(5), 3, logger.warning)
    wall, processor = time.perf_counter(), time.process_time()
    steps = method.config.schedule_steps
    for step in range(steps):
        stepper.step(step, step / steps)
    return method, time.perf_counter() - wall, time.process_time() - processor


def compare(thing: Thing, method: Lift, side: int, seconds: float, cpu_seconds: float) -> Findings:
    """Render a lifted thing from all around and compare it with the truth."""
    errors, backs, overlaps, hues = [], [], [], []
    for azimuth in EVALUATED_AZIMUTHS_DEG:
        found = render_view(method, azimuth, EVALUATED_ELEVATION_DEG, side)
        truth = photograph(thing, azimuth, EVALUATED_ELEVATION_DEG, side)[0]
        psnr = psnr_on_white(found, truth)
        errors.append(psnr)
        both = (found[..., 3] > 0.5, truth[..., 3] > 0.5)
        overlaps.append((both[0] & both[1]).sum() / max((both[0] | both[1]).sum(), 1))
        if abs((azimuth - 180 + 180) % 360 - 180) <= BACK_DEG:
            backs.append(psnr)
            hues.append(hue_error_deg(found, truth))
    front = render_view(method, 0.0, FRONT_ELEVATION_DEG, side)
    return Findings(
        front_psnr=psnr_on_white(front, photograph(thing, 0.0, FRONT_ELEVATION_DEG, side)[0]),
        novel_psnr=float(np.mean(errors)),
        back_psnr=float(np.mean(backs)),
        mask_iou=float(np.mean(overlaps)),
        back_hue_error_deg=float(np.mean(hues)),
        iou=volume_iou(method, thing),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
    )


def render_view(method: Lift, azimuth_deg: float, elevation_deg: float, side: int) -> Float[np.ndarray, "S S 4"]:
    """A premultiplied RGBA picture of a lifted thing."""
    frame = RayRenderer(method.render_rays, (0.0, 0.0, 0.0)).render(
        camera_around(azimuth_deg, elevation_deg, DISTANCE, FOV_Y_DEG, side)
    )
    assert frame.alpha is not None
    return np.asarray(torch.cat([frame.rgb, frame.alpha[..., None]], -1).numpy())


def psnr_on_white(found: np.ndarray, truth: np.ndarray) -> float:
    """PSNR of two premultiplied pictures on white, dB."""
    difference = (found[..., :3] - found[..., 3:]) - (truth[..., :3] - truth[..., 3:])
    return -10 * math.log10(max(float((difference**2).mean()), 1e-10))


def hue_error_deg(found: np.ndarray, truth: np.ndarray) -> float:
    """Angle between the mean hues of two premultiplied pictures."""
    a, b = mean_hue(found), mean_hue(truth)
    if abs(a) < 1e-6 or abs(b) < 1e-6:
        return 90.0
    return abs(math.degrees(math.atan2((a * b.conjugate()).imag, (a * b.conjugate()).real)))


def mean_hue(picture: np.ndarray) -> complex:
    """Sum of the chroma of a premultiplied picture as points on the circle of hues."""
    total = picture[..., :3].reshape(-1, 3).sum(0)
    angles = np.exp(2j * math.pi * np.arange(3) / 3)
    return complex((total * angles).sum() / max(picture[..., 3].sum(), 1e-6))


def volume_iou(method: Lift, thing: Thing) -> float:
    """Overlap of the volume of a lifted thing with the true one."""
    axis = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    is_solid = filled((method.density(x) > SOLID_DENSITY).view(CELLS, CELLS, CELLS)).flatten()
    truth = is_inside(thing, x)
    return float((is_solid & truth).sum() / (is_solid | truth).sum().clamp_min(1))


def filled(is_solid: Bool[Tensor, "N N N"]) -> Bool[Tensor, "N N N"]:
    """A volume with all cavities filled that no path through empty cells reaches from outside."""
    is_open = torch.zeros(tuple(n + 2 for n in is_solid.shape), dtype=torch.bool)
    may_open = torch.ones_like(is_open)
    may_open[1:-1, 1:-1, 1:-1] = ~is_solid
    is_open[0] = True
    while True:
        grown = is_open.clone()
        for dim in range(3):
            for shift in (-1, 1):
                grown |= is_open.roll(shift, dim)
        grown &= may_open
        if torch.equal(grown, is_open):
            return ~is_open[1:-1, 1:-1, 1:-1]
        is_open = grown
