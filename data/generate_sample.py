#!/usr/bin/env python3
"""Make the sample capture: photos of a still life that exists only as formulas, and the true camera poses.

    python data/generate_sample.py --output data/sample

Needs numpy, numba and Pillow (all are dependencies of the project); the project itself need not be installed.
The same arguments give the same files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from generator.baking import bake
from generator.cameras import phone_lens, photo_name, walk, write_true_poses
from generator.model import build
from generator.photo import develop, write_jpeg
from generator.scene import Scene
from generator.tracing import render

EXPOSURE = 1.0
SEED = 7
FULL_WIDTH = 640
"""Photo width at which pictures and baked light have full resolution."""


def prepare(width: int, quality: float) -> Scene:
    """Model and light the scene; `quality` in 0..1 scales the rays per light node (1 for the shipped photos)."""
    began = time.process_time()

    def say(text: str) -> None:
        print(f"{time.process_time() - began:6.1f} s CPU  {text}", flush=True)

    detail = min(1.0, max(width / FULL_WIDTH, 0.1))
    coarse = 1.0 if quality >= 1 else 1 / max(quality, 0.1) ** 0.6
    scene = build(detail, coarse)
    texels = f"{len(scene.texels) / 1e6:.1f} M texels"
    say(f"model: {len(scene.tri_patch)} triangles, {len(scene.light)} light nodes, {texels}")
    bake(scene, max(2, round(64 * quality)), max(4, round(256 * quality)), 3 if quality > 0.05 else 1, say)
    return scene


def generate(
    output: Path,
    size: tuple[int, int],
    samples: int,
    only: Sequence[int] | None = None,
    seed: int = SEED,
    jpeg: int = 90,
) -> None:
    """Write `images/`, `true_poses.json` into `output`.

    Args:
        output: Folder; made when missing.
        size: Width and height in pixels.
        samples: Rays per pixel. Below 8 the baked light is rougher too (for quick looks).
        only: Positions of the photos to render, None for all; the poses are written for all of them.
        seed: Seed of the walk, the exposures and the noise.
        jpeg: JPEG quality, 1..95.
    """
    lens = phone_lens(*size)
    poses = walk(np.random.default_rng(seed))
    scene = prepare(size[0], min(1.0, (samples / 8) ** 2))
    (output / "images").mkdir(parents=True, exist_ok=True)
    numbers = range(len(poses)) if only is None else only
    for number in numbers:
        began = time.process_time()
        linear = render(scene, lens, poses[number], samples, seed * 1000 + number)
        pixels = develop(linear, EXPOSURE, np.random.default_rng((seed, number)))
        write_jpeg(output / "images" / photo_name(number), pixels, number, jpeg)
        print(f"{photo_name(number)}  {time.process_time() - began:.1f} s CPU", flush=True)
    write_true_poses(output / "true_poses.json", lens, poses)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--size", default="640x480", help="photo size, e.g. 640x480 (default)")
    parser.add_argument("--samples", type=int, default=12, help="rays per pixel (default 12)")
    parser.add_argument("--photos", help="comma-separated photo numbers from 1; default all")
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the walk and the noise (default {SEED})")
    parser.add_argument("--jpeg", type=int, default=90, help="JPEG quality (default 90)")
    options = parser.parse_args(arguments)
    try:
        width, height = (int(part) for part in options.size.lower().split("x"))
        only = None if options.photos is None else [int(part) - 1 for part in options.photos.split(",")]
    except ValueError:
        parser.error("--size wants WIDTHxHEIGHT, --photos wants numbers like 1,9,17")
    if min(width, height) < 8 or options.samples < 1:
        parser.error("--size must be at least 8x8 and --samples at least 1")
    generate(options.output, (width, height), options.samples, only, options.seed, options.jpeg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
