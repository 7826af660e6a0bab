"""Plain against augmented training of the fast field, on good and bad photos, with equal processor time.

Usage:
    python apps/compare_augmented.py CAPTURE... --seconds 60 --seeds 3 --output-dir outputs/compare

For every seed, every capture and every condition (clean, impulse noise, wrong poses), one run of each variant trains
for the same number of processor seconds on one thread; compiling, loading and evaluating do not count. The variants of
one comparison train side by side in processes of their own, so that other work on the machine slows them alike; start
it with `taskset -c 0` where they should share one core. Written are table.md and table.json: mean test PSNR over the
seeds with its spread, steps, and (first seed) the PSNR lost under an adversary of the default radii; for noisy photos
also a strip with a training photo, its noisy copy and what each variant made of it. Runs that table.json holds already
are not done again. Variants are given as NAME=FLAGS, with the flags of
`nsx train aug --field hash`; plain is always among them:

    --variants default= pose="--patient-huber 0" colour="--correct-poses 0" features="--keys features --mix 0.2"
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import shlex
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from nerfstudio_ext.cli.console import Output
from nerfstudio_ext.cli.environment import configure_threads

CONDITIONS = {"clean": None, "impulse": ("impulse", 0.3), "pose": ("pose", 0.5)}
PLAIN = "--mix 0"


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    captures: tyro.conf.Positional[tuple[Path, ...]]
    """Posed captures."""
    seconds: float = 60.0
    """Processor seconds of training of every run."""
    seeds: int = 3
    """Runs of each variant; photos are corrupted anew for each."""
    conditions: tuple[str, ...] = ("clean", "impulse", "pose")
    """Of: clean, impulse (30 % of the pixels), pose (0.5 degree, 0.5 % of the scene)."""
    variants: tuple[str, ...] = ("augmented=",)
    """NAME=FLAGS of augmented training."""
    downscale_factor: float | None = None
    """Divide the photos' width and height by this; noise is put on the photos as they are stored."""
    max_images: int | None = None
    """Test photos looked at (default: all)."""
    attacked_images: int = 2
    """Test photos of the first seed that are attacked as well; 0: none."""
    keep_runs: bool = False
    """Leave the run folders in the output folder (40 MB each), for `nsx eval RUN --capture CAPTURE --stability`."""
    output_dir: Path = Path("outputs/compare")
    """Where table.md, table.json and strips of pictures go."""


def main(options: Options) -> None:
    """Run what is missing; the tables are written anew after every comparison, so that stopping early loses little."""
    out = Output()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    flags = {"plain": PLAIN, **{name: text for name, _, text in (v.partition("=") for v in options.variants)}}
    document = options.output_dir / "table.json"
    rows: list[dict[str, Any]] = json.loads(document.read_text("utf-8"))["runs"] if document.exists() else []
    context = multiprocessing.get_context("spawn")
    for seed, capture, condition in itertools.product(range(options.seeds), options.captures, options.conditions):
        about = {"capture": capture.resolve().name, "condition": condition, "seed": seed, "seconds": options.seconds}
        missing = {}
        for name, text in flags.items():
            wanted = about | {"variant": name, "flags": text}
            if not any(wanted.items() <= row.items() for row in rows):
                missing[name] = wanted
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(len(missing), context) as pool:
            path = _corrupted(capture, condition, seed, Path(folder))
            runs = options.output_dir / "runs" if options.keep_runs else Path(folder)
            jobs = [pool.submit(_run, path, wanted, runs / _name(wanted), options) for wanted in missing.values()]
            for job in jobs:
                rows.append(row := job.result())
                out.say(f"{row['capture']} {condition} seed {seed} {row['variant']}: {row['psnr']:.2f} dB")
            if condition == "impulse":
                _write_strip(capture, list(missing.values()), options)
        _write(options, rows)
    out.say((options.output_dir / "table.md").read_text())


def _name(about: dict[str, Any]) -> str:
    return "-".join(str(about[key]) for key in ("capture", "condition", "seed", "variant"))


def _config(flags: str) -> Any:
    """Settings of augmented training on the fast field from command-line flags."""
    from nerfstudio_ext.methods.aug_settings import AugConfig

    words = [*shlex.split(flags), "--field", "hash"]
    return tyro.cli(AugConfig, args=words, config=(tyro.conf.OmitArgPrefixes,))


def _corrupted(capture: Path, condition: str, seed: int, folder: Path) -> Path:
    from nerfstudio_ext.scenes.corruption import Corruption, corrupt_capture

    change = CONDITIONS[condition]
    if change is None:
        return capture
    kind, level = change
    return corrupt_capture(capture, folder / "capture", Corruption(kind, level, seed)).path  # type: ignore[arg-type]


def _run(path: Path, about: dict[str, Any], folder: Path, options: Options) -> dict[str, Any]:
    """Train, compare with the test photos, attack; in a process of its own, on one thread."""
    import torch
    from PIL import Image

    from nerfstudio_ext import kernels, methods
    from nerfstudio_ext.renderer import RayRenderer
    from nerfstudio_ext.scenes import load_scene
    from nerfstudio_ext.training.clock import TrainClock
    from nerfstudio_ext.training.config import RunConfig, SceneSource, TrainConfig
    from nerfstudio_ext.training.evaluate import evaluate, truth_image
    from nerfstudio_ext.training.runs import Run
    from nerfstudio_ext.training.stability import measure_stability
    from nerfstudio_ext.training.trainer import Trainer

    kernels.set_threads(1)
    torch.set_num_threads(1)
    scene = load_scene(path, downscale=options.downscale_factor)
    config, seed = _config(about["flags"]), about["seed"]
    train = TrainConfig(max_train_seconds=options.seconds, seed=seed, steps_per_save=1_000_000)
    source = SceneSource(str(path.resolve()), options.downscale_factor)
    with Run.create(folder, RunConfig(config, train, source), scene.meta) as run:
        method = methods.build(config, scene.meta, seed=seed)
        result = Trainer(method, scene, train, run, clock=TrainClock(time.process_time)).train()
        renderer = RayRenderer(method.render_rays, scene.meta.background)
        scores = evaluate(renderer, scene, "test", options.max_images)
        row = about | {"psnr": scores.psnr, "ssim": scores.ssim, "steps": result.steps}
        row |= {"train_seconds": result.train_seconds, "config": dataclasses.asdict(config)}
        if seed == 0 and options.attacked_images > 0:
            attacked = measure_stability(
                method, scene, max_images=options.attacked_images, kinds=("attack",), strengths=(1.0,)
            )[0]
            row["attack_drop"] = attacked.drops[-1]
    if about["condition"] == "impulse":
        shown = scene.meta.split.train[0]
        frame = renderer.render(scene.meta.training_cameras()[shown]).rgb
        pair = torch.cat([truth_image(scene, shown), frame.reshape_as(truth_image(scene, shown))], 1)
        Image.fromarray((255 * pair.clamp(0, 1)).round().byte().numpy()).save(_pair_path(about, options))
    return row


def _pair_path(about: dict[str, Any], options: Options) -> Path:
    """Where a run leaves its noisy training photo and its own view from there, side by side."""
    return options.output_dir / f"{_name(about)}.png"


def _write_strip(capture: Path, runs: Sequence[dict[str, Any]], options: Options) -> None:
    """Photo, noisy photo, and what each variant made of it, as one picture."""
    import numpy as np
    from PIL import Image

    from nerfstudio_ext.scenes import load_scene
    from nerfstudio_ext.training.evaluate import truth_image

    scene = load_scene(capture, downscale=options.downscale_factor)
    photo = truth_image(scene, scene.meta.split.train[0])
    parts = [(255 * photo).round().byte().numpy()]
    for about in runs:
        with Image.open(_pair_path(about, options)) as picture:
            pair = np.asarray(picture)
        width = pair.shape[1] // 2
        parts += [pair[:, width:]] if len(parts) > 1 else [pair[:, :width], pair[:, width:]]
        _pair_path(about, options).unlink()
    Image.fromarray(np.concatenate(parts, 1)).save(options.output_dir / f"{_name(runs[0] | {'variant': 'strip'})}.png")


def _write(options: Options, rows: Sequence[dict[str, Any]]) -> None:
    """The tables of the runs so far."""
    document = {"schema": 2, "runs": rows}
    (options.output_dir / "table.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = ["| capture | condition | variant | PSNR, dB | against plain | steps | lost under attack, dB | seeds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["capture"], row["condition"], row["variant"] != "plain")):
        groups.setdefault((row["capture"], row["condition"], row["variant"]), []).append(row)
    for (capture, condition, variant), group in groups.items():
        plain = {row["seed"]: row["psnr"] for row in groups[capture, condition, "plain"]}
        values = [row["psnr"] for row in group]
        gain = statistics.mean(row["psnr"] - plain[row["seed"]] for row in group)
        spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        steps = statistics.mean(row["steps"] for row in group)
        drops = [row["attack_drop"] for row in group if "attack_drop" in row]
        drop = f"{statistics.mean(drops):.2f}" if drops else ""
        cells = [capture, condition, variant, f"{statistics.mean(values):.2f}{spread}", f"{gain:+.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{steps:.0f}', drop, str(len(group))])} |")
    (options.output_dir / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    configure_threads()
    main(tyro.cli(Options, description=__doc__))
