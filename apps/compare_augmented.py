"""Plain against augmented training of the fast field, on good and bad photos, with equal time.

Usage:
    python apps/compare_augmented.py CAPTURE... --seconds 60 --seeds 3 --output-dir outputs/compare

For every capture, every condition (clean, impulse noise, wrong poses) and every seed, one run of each variant trains
for the same number of seconds; compiling, loading and evaluating do not count. Written are table.md and table.json:
mean test PSNR over the seeds with its spread, steps, and the PSNR lost under an adversary of the default radius.
Variants are given as NAME=FLAGS, with the flags of `nsx train aug --field hash`; "plain" is always among them. An
example that takes keys one at a time:

    --variants all= pose="--keys pose" depth="--keys depth" points="--keys points" features="--keys features"
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from nerfstudio_ext.cli.console import Output
from nerfstudio_ext.cli.environment import configure_threads

CONDITIONS = {"clean": None, "impulse": ("impulse", 0.3), "pose": ("pose", 0.5)}


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    captures: tyro.conf.Positional[tuple[Path, ...]]
    """Posed captures."""
    seconds: float = 60.0
    """Training time of every run."""
    seeds: int = 3
    """Runs of each variant; photos are corrupted anew for each."""
    conditions: tuple[str, ...] = ("clean", "impulse", "pose")
    """Of: clean, impulse (30 % of the pixels), pose (0.5 degree, 0.5 % of the scene)."""
    variants: tuple[str, ...] = ("augmented=",)
    """NAME=FLAGS of augmented training."""
    downscale_factor: float | None = None
    """Divide the photos' width and height by this."""
    max_images: int | None = None
    """Test photos looked at (default: all)."""
    output_dir: Path = Path("outputs/compare")
    """Where table.md and table.json go."""


def main(options: Options) -> None:
    """Run everything; the tables are written anew after every run, so that stopping early loses nothing."""
    out = Output()
    methods = {"plain": _config("--keys="), **dict(map(_variant, options.variants))}
    rows: list[dict[str, Any]] = []
    for capture in options.captures:
        for condition in options.conditions:
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    scene = _scene(capture, condition, seed, Path(folder), options.downscale_factor)
                    for name, config in methods.items():
                        row = _run(scene, config, seed, Path(folder) / "runs", options)
                        rows.append({"capture": capture.name, "condition": condition, "variant": name, **row})
                        out.say(f"{capture.name} {condition} seed {seed} {name}: {row['psnr']:.2f} dB")
                        _write(options, rows)
    out.say((options.output_dir / "table.md").read_text())


def _variant(text: str) -> tuple[str, Any]:
    name, _, flags = text.partition("=")
    return name, _config(flags)


def _config(flags: str) -> Any:
    """Settings of augmented training on the fast field from command-line flags; without keys it is plain training."""
    from nerfstudio_ext.methods.aug_settings import AugConfig

    words = [*shlex.split(flags), "--field", "hash"]
    return tyro.cli(AugConfig, args=words, config=(tyro.conf.OmitArgPrefixes,))


def _scene(capture: Path, condition: str, seed: int, folder: Path, downscale: float | None) -> Any:
    from nerfstudio_ext.scenes import load_scene
    from nerfstudio_ext.scenes.corruption import Corruption, corrupt_capture

    change = CONDITIONS[condition]
    if change is not None:
        kind, level = change
        capture = corrupt_capture(capture, folder / "capture", Corruption(kind, level, seed)).path  # type: ignore[arg-type]
    return load_scene(capture, downscale=downscale)


def _run(scene: Any, config: Any, seed: int, folder: Path, options: Options) -> dict[str, Any]:
    """Train, compare with the test photos, attack."""
    from nerfstudio_ext import methods
    from nerfstudio_ext.renderer import RayRenderer
    from nerfstudio_ext.training.config import RunConfig, TrainConfig
    from nerfstudio_ext.training.evaluate import evaluate
    from nerfstudio_ext.training.runs import Run
    from nerfstudio_ext.training.stability import measure_stability
    from nerfstudio_ext.training.trainer import Trainer

    train = TrainConfig(max_train_seconds=options.seconds, seed=seed, steps_per_save=1_000_000)
    with Run.create(folder, RunConfig(config, train), scene.meta) as run:
        method = methods.build(config, scene.meta, seed=seed)
        result = Trainer(method, scene, train, run).train()
        scores = evaluate(RayRenderer(method.render_rays, scene.meta.background), scene, "test", options.max_images)
        attacked = measure_stability(method, scene, max_images=min(options.max_images or 4, 4), kinds=("attack",))[0]
    lost = dict(zip(attacked.levels, attacked.drops, strict=True))
    return {
        "seed": seed,
        "psnr": scores.psnr,
        "ssim": scores.ssim,
        "steps": result.steps,
        "seconds": result.train_seconds,
        "attack_drop": lost[1.0],
        "config": dataclasses.asdict(config),
    }


def _write(options: Options, rows: Sequence[dict[str, Any]]) -> None:
    """The tables of the runs so far."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    document = {"schema": 1, "seconds": options.seconds, "runs": rows}
    (options.output_dir / "table.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = ["| capture | condition | variant | PSNR, dB | against plain | steps | lost under attack, dB | seeds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["capture"], row["condition"], row["variant"]), []).append(row)
    for (capture, condition, variant), group in groups.items():
        plain = groups[capture, condition, "plain"]
        values = [row["psnr"] for row in group]
        gain = statistics.mean(values) - statistics.mean(row["psnr"] for row in plain)
        spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        steps = statistics.mean(row["steps"] for row in group)
        drop = statistics.mean(row["attack_drop"] for row in group)
        cells = [capture, condition, variant, f"{statistics.mean(values):.2f}{spread}", f"{gain:+.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{steps:.0f}', f'{drop:.2f}', str(len(group))])} |")
    (options.output_dir / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    configure_threads()
    main(tyro.cli(Options, description=__doc__))
