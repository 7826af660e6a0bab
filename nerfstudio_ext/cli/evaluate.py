"""`nsx eval`: a finished run against the photos it was not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions, DeviceOptions, PictureOptions, one_of
from .untrained import UntrainedOptions, run_without_training

if TYPE_CHECKING:
    from ..progress import Progress
    from ..scenes.model import Scene, SceneMeta
    from ..training.config import SceneSource
    from ..training.evaluate import EvalResult
    from ..training.runs import OpenedRun


@dataclass(frozen=True)
class EvalOptions(PictureOptions, UntrainedOptions, DeviceOptions, CommonOptions):
    """Options of `nsx eval`."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, or a folder that holds runs: the newest is taken. With --method: a capture."""

    split: Literal["test", "val", "train"] = "test"
    """Which photos."""

    max_images: int | None = None
    """At most so many photos, spread evenly (default: all)."""

    output_dir: Path | None = None
    """Where renders and error maps go (default: renders/eval-SPLIT in the run)."""

    capture: Path | None = None
    """The capture, if it has moved since training."""

    checkpoint: int | None = None
    """Step of the checkpoint (default: the newest)."""

    stability: bool = False
    """Also measure PSNR under wrong poses, jittered rays, noisy features and an adversary; draws stability.png."""

    baselines: bool = False
    """For gnt: also judge the nearest source photo and a blend of the sources without depth. Always with --method."""


def options_for(argv: list[str]) -> tuple[type[EvalOptions], list[str]]:
    """One kind of options."""
    return EvalOptions, argv


def run(options: EvalOptions, out: Output) -> None:
    """Evaluate, print a table, write pictures."""
    source = one_of("eval", "RUN", options.run)

    from ..methods import method_name
    from ..methods.gnt import Gnt
    from ..training.evaluate import evaluate
    from ..training.paper_protocol import PaperProtocol
    from ..training.runs import open_run

    if options.method is not None:
        opened, scene = run_without_training(source, options, out)
    else:
        opened, scene = open_run(source, checkpoint=options.checkpoint, device=options.device), None
    paper = PaperProtocol() if isinstance(opened.method, Gnt) else None
    folder = options.output_dir or opened.path / "renders" / f"eval-{options.split}"
    with out.progress() as progress:
        if scene is None:
            scene = scene_of_run(
                opened.config.source, opened.meta, progress, capture=options.capture,
                memory_budget=options.memory_budget,
            )  # fmt: skip
        result = evaluate(
            opened.renderer(),
            scene,
            options.split,
            options.max_images,
            folder,
            method=method_name(opened.config.method),
            progress=progress,
            also=paper,
        )
        more: dict[str, Any] = {} if paper is None else {"paper_protocol": paper.to_json()}
        if options.baselines or options.method is not None:
            more["baselines"] = _baselines(options, opened, scene, folder, result, progress)
        stability = _stability(options, opened, scene, folder, progress) if options.stability else {}
    out.box(
        f"{opened.path}, step {opened.step}, {options.split} photos",
        {score.file: f"{score.psnr:6.2f} dB   SSIM {score.ssim:.4f}" for score in result.per_image},
    )
    perceptual = "" if result.lpips is None else f"   LPIPS {result.lpips:.4f}"
    out.say(f"\nmean of {len(result.per_image)}: {result.psnr:.2f} dB   SSIM {result.ssim:.4f}{perceptual}")
    if paper is not None:
        out.say(f"in the paper's protocol ({PaperProtocol.ABOUT}): {paper.psnr:.2f} dB   SSIM {paper.ssim:.4f}")
    for name, scores in more.get("baselines", {}).items():
        out.say(f"{name}: {scores['psnr']:.2f} dB   SSIM {scores['ssim']:.4f}   (this run {scores['gain']:+.2f} dB)")
    out.say(f"pictures: {folder}")
    if stability:
        rows = {name: _drops_of(curve) for name, curve in stability["stability"].items()}
        out.box("dB lost at each strength", rows)
    out.result(result.to_json() | {"run": opened.path, "step": opened.step, "pictures": folder} | more | stability)


def _baselines(
    options: EvalOptions, opened: OpenedRun, scene: Scene, folder: Path, result: EvalResult, progress: Progress
) -> dict[str, dict[str, float]]:
    """Scores of pictures that need no network, by name, and how far the run is above them."""
    from ..methods.gnt import Gnt
    from ..methods.gnt_baselines import baselines_of
    from ..training.evaluate import evaluate

    if not isinstance(opened.method, Gnt):
        raise UserError("baselines are pictures of GNT's sources", where="--baselines", fix="Leave it out")
    found = {}
    for name, renderer in baselines_of(opened.method).items():
        target = folder / name.replace(" ", "-")
        scores = evaluate(renderer, scene, options.split, options.max_images, target, progress=progress)
        found[name] = {"psnr": scores.psnr, "ssim": scores.ssim, "gain": result.psnr - scores.psnr}
    return found


def _stability(
    options: EvalOptions, opened: OpenedRun, scene: Scene, folder: Path, progress: Progress
) -> dict[str, Any]:
    from ..training.stability import measure_stability
    from ..training.stability_plot import write_plot

    curves = measure_stability(opened.method, scene, options.split, options.max_images, progress=progress)
    plot = folder / "stability.png"
    write_plot(curves, plot, f"{opened.meta.name}, step {opened.step}: {options.split} photos under disturbance")
    return {"stability": {curve.name: curve.to_json() for curve in curves}, "stability_plot": plot}


def _drops_of(curve: dict[str, Any]) -> str:
    pairs = zip(curve["levels"][1:], curve["drop"][1:], strict=True)
    return "   ".join(f"{level:g}: {drop:5.2f}" for level, drop in pairs) + f"   ({curve['unit']})"


def scene_of_run(
    source: SceneSource,
    meta: SceneMeta,
    progress: Progress,
    *,
    capture: Path | None = None,
    memory_budget: int | None = None,
    scratch: Path | None = None,
    judge: Callable[[Scene], None] | None = None,
) -> Scene:
    """The photos of a run, read as they were for training, with the cameras and the frame that the run knows.

    Args:
        source: The capture, and how it was read.
        meta: What the run knows of it.
        progress: Receives stages and warnings.
        capture: Where it lies now; None: where it lay then.
        memory_budget: See `load_scene`.
        scratch: See `load_scene`.
        judge: Gets the capture as it was loaded, before the cameras that the run knows take the place of its own.
    Raises:
        UserError: if the capture is gone or holds other photos.
    """
    from .train import load_source

    path = capture or Path(source.path)
    if not path.exists():
        raise UserError("the capture of this run is not there", where=path, fix="Restore it, or name it with --capture")
    here = dataclasses.replace(source, path=str(path))
    scene = load_source(here, progress, memory_budget=memory_budget, scratch=scratch)
    if scene.meta.image_names != meta.image_names:
        raise UserError(
            f"the capture holds other photos than in training ({len(scene.meta.image_names)}, then "
            f"{len(meta.image_names)})",
            where=path,
            fix="Restore them, or train a new run",
        )
    if judge is not None:
        judge(scene)
    return dataclasses.replace(scene, meta=meta)
