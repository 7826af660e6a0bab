"""report.html: what a run did and how good it is, on one self-contained page."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ..camera_paths import file_stems
from ..colormaps import color_error
from ..errors import UserError
from ..renderer import Renderer
from ..scenes.model import Scene, SceneMeta
from .config import RunConfig
from .evaluate import EvalResult, truth_image
from .report_page import page
from .trainer import TrainResult

MAX_VIEWS = 6
_VIEW_PX = 560
_JPEG_QUALITY = 86


@dataclass(frozen=True)
class ReportView:
    """A held-out photo beside its render.

    Attributes:
        name: The photo's file.
        psnr: dB.
        ssim: -1..1.
        truth: The photo, as JPEG bytes.
        render: The render.
        error: The error map.
        is_tall: Whether the picture is higher than wide.
    """

    name: str
    psnr: float
    ssim: float
    truth: bytes
    render: bytes
    error: bytes
    is_tall: bool = False


@dataclass(frozen=True)
class ReportContent:
    """Everything the page shows.

    Attributes:
        run: The run folder.
        config: Its config.
        meta: The capture.
        steps: Training steps.
        metrics: Lines of metrics.jsonl.
        timings: Seconds by activity, in the order they are shown ("loading", "compiling", "training", ...).
        evaluation: Scores on held-out images, if there are any.
        views: Held-out photos beside their renders.
        machine: Pairs that describe the machine.
        notes: Things the user should know, one line each.
    """

    run: Path
    config: RunConfig
    meta: SceneMeta
    steps: int
    metrics: Sequence[Mapping[str, float]]
    timings: Mapping[str, float]
    evaluation: EvalResult | None = None
    views: Sequence[ReportView] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(path: Path, content: ReportContent) -> Path:
    """Write the page; it needs no other file and no network.

    Raises:
        UserError: if it cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_text(page(content), encoding="utf-8", errors="replace")  # names may be no text
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"the report cannot be written: {error.strerror}",
            where=path,
            fix="Free some space, or choose another --output-dir",
        ) from error
    return path


def training_notes(result: TrainResult) -> list[str]:
    """What the reader of a report should know about how training went; empty when all went as planned."""
    notes = []
    if result.n_skipped:
        steps = "1 step was" if result.n_skipped == 1 else f"{result.n_skipped} steps were"
        notes.append(f"{steps} skipped: the loss or its gradient was not usable.")
    if result.n_rollbacks:
        times = "once" if result.n_rollbacks == 1 else f"{result.n_rollbacks} times"
        notes.append(f"Training returned to its last good state {times}, at half the learning rate each time.")
    if result.exit_code:
        notes.append(f"Training was stopped by {result.stopped_by} before its planned end.")
    return notes


def report_views(
    scene: Scene, evaluation: EvalResult, *, renders: Path | None = None, renderer: Renderer | None = None
) -> list[ReportView]:
    """The best, the worst and some held-out views between, in order of quality.

    Args:
        scene: The capture.
        evaluation: Scores of the split.
        renders: The `output_dir` of `evaluate`; its pictures are used where they are.
        renderer: Renders views that are not on the disk; without it they are left out.
    """
    ranked = sorted(evaluation.per_image, key=lambda score: -score.psnr)
    n = min(MAX_VIEWS, len(ranked))
    chosen = [ranked[round(i * (len(ranked) - 1) / max(n - 1, 1))] for i in range(n)]
    positions = getattr(scene.meta.split, evaluation.split)
    stems = dict(zip(positions, file_stems([scene.meta.image_names[i] for i in positions]), strict=True))
    cameras = scene.meta.training_cameras()
    views = []
    for score in chosen:
        render = _saved_render(renders, stems[score.position])
        if render is None and renderer is not None:
            rgb = renderer.render(cameras[score.position]).rgb
            render = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        truth = (truth_image(scene, score.position) * 255).round().to(torch.uint8).numpy()
        if render is None or render.shape != truth.shape:
            continue
        difference = np.abs(render.astype(np.float32) - truth).mean(-1)
        error = color_error(torch.from_numpy(difference / 255))
        pictures = (truth, render, (error * 255).round().to(torch.uint8).numpy())
        is_tall = truth.shape[0] > truth.shape[1]
        photo, drawn, wrong = map(_jpeg, pictures)
        views.append(ReportView(score.file, score.psnr, score.ssim, photo, drawn, wrong, is_tall))
    return views


def _saved_render(folder: Path | None, stem: str) -> np.ndarray | None:
    if folder is None:
        return None
    try:
        with Image.open(folder / "renders" / f"{stem}.png", formats=["PNG"]) as picture:
            return np.array(picture.convert("RGB"))
    except OSError:
        return None


def _jpeg(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_VIEW_PX, _VIEW_PX), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
