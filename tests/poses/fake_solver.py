"""A stand-in for the pose solver: plays one prescribed part per attempt.

usage: fake_solver.py PART,PART,... JOB     where PART = crash | hang | error | silent | garbage | nothing | place:N
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np


def main(parts: list[str], job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    output = Path(job["output"])
    number = int(output.name.rpartition("-")[2])
    part = parts[min(number, len(parts)) - 1]
    print(json.dumps({"event": "stage", "name": "match", "total": 4}), flush=True)
    print("a library that prints what it likes", flush=True)
    print(json.dumps({"event": "advance", "done": 2}), flush=True)
    print(f"fake solver plays {part}", file=sys.stderr, flush=True)
    if part == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if part == "hang":
        time.sleep(600)
    if part == "error":
        print("ValueError: the database is locked", file=sys.stderr)
        sys.exit(1)
    if part == "silent":
        return
    if part == "garbage":
        (output / "result.json").write_text('{"n_keypoints": [')
        return
    n = len(job["photos"])
    placed = int(part.partition(":")[2]) if part.startswith("place") else 0
    result = {
        "n_pairs": n, "n_models": 1, "version": "0", "n_keypoints": [900] * n, "turned_share": 0.5,
        "links": [[i, i + 1, 40] for i in range(n - 1)], "seconds": {"match": 0.5}, "cpu_seconds": {"match": 0.25},
    }  # fmt: skip
    if part == "nothing-textureless":
        result |= {"n_keypoints": [20] * n, "links": []}
    if part == "nothing-unconnected":
        result["links"] = [[0, 1, 40]]
    if part == "nothing-turned":
        result["turned_share"] = 1.0
    if placed:
        result |= {"principal_point_refined": False, "model": model(job, placed, output)}
    (output / "result.json").write_text(json.dumps(result))


def model(job: dict, placed: int, output: Path) -> dict:
    """`placed` cameras on a circle of radius 3, looking at the origin, with the y axis of the world pointing down."""
    images = []
    for i, photo in enumerate(job["photos"][:placed]):
        angle = 2 * np.pi * i / len(job["photos"])
        centre = np.array([3 * np.sin(angle), 0.0, -3 * np.cos(angle)])
        forward = -centre / 3
        down = np.array([0.0, 1.0, 0.0])
        rotation = np.stack([np.cross(down, forward), down, forward])
        pose = np.column_stack([rotation, -rotation @ centre]).tolist()
        images.append({
            "name": photo["name"], "id": i + 1, "camera": 1, "n_points": 50, "error_px": 0.5, "cam_from_world": pose,
        })  # fmt: skip
    rng = np.random.default_rng(0)
    np.save(output / "points.npy", np.column_stack([
        rng.normal(0, 0.5, (200, 3)), rng.integers(0, 256, (200, 3)), np.full(200, 0.4), np.full(200, 4.0),
    ]))  # fmt: skip
    (output / "sparse").mkdir(exist_ok=True)
    (output / "sparse" / "cameras.bin").write_bytes(b"\0")
    camera = {"model": "OPENCV", "width": 160, "height": 120, "params": [140, 141, 81, 59, 0.01, -0.02, 0.001, 0.002]}
    return {
        "images": images, "cameras": {"1": camera}, "error_px": 0.5, "n_points": 200, "n_observations": 800,
        "baseline_share": 1.5,
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2])
