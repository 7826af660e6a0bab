"""The CUDA benchmark without a GPU: what it imports, what it says, what it writes; its parts that any device can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.kernels import Occupancy, reference, reference_fused, round_batch
from nerfstudio_ext.kernels.bench_cuda import baselines, scene, training
from nerfstudio_ext.kernels.bench_cuda.report import TARGETS, Report, verdicts
from nerfstudio_ext.rays import Samples

ROOT = Path(__file__).parents[2]

_BARE = """
import importlib.abc, sys
ALLOWED = {"torch", "numpy", "numba", "safetensors", "PIL", "nerfstudio_ext"}
REFUSED = {"tyro", "viser", "pycolmap", "imageio", "imageio_ffmpeg", "rich", "jaxtyping", "torchmetrics", "scipy",
           "skimage", "trimesh", "diffusers", "transformers", "websockets", "kornia", "galois"}
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is not on a bare machine")
sys.meta_path.insert(0, Refuse())
from nerfstudio_ext.kernels.bench_cuda import baselines, ceilings, checks, micro, protocol, rendering, training
from nerfstudio_ext.kernels.bench_cuda.__main__ import main
import torch
torch.cuda.is_available = lambda: False
sys.exit(main(["--out", sys.argv[1]]))
"""


def test_it_needs_nothing_but_torch_numpy_and_pillow_and_says_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _BARE, str(tmp_path / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines == [
        "error: nsx bench cuda: torch finds no CUDA device. Use a machine with an NVIDIA GPU and a CUDA build of torch."
    ]
    assert not (tmp_path / "results.json").exists()


def test_results_are_on_disk_after_every_phase_and_faults_do_not_end_it(tmp_path: Path) -> None:
    lines: list[str] = []
    report = Report(tmp_path / "new" / "results.json", 100.0, lines.append)

    def broken() -> dict[str, object]:
        raise RuntimeError("two\nlines")

    def on_disk() -> dict[str, object]:
        return json.loads(report.path.read_text())

    assert report.run("first", 1, lambda: {"value": 1.23456789, "odd": float("nan")}) != {}
    assert on_disk()["phases"]["first"]["value"] == 1.2346 and on_disk()["phases"]["first"]["odd"] is None  # type: ignore[index]
    assert report.run("second", 1, broken) == {}
    assert on_disk()["failed_checks"] == ["second: RuntimeError: two lines"]
    assert report.run("third", 1000, lambda: {"never": 1}) == {}
    assert "1000 s needed" in on_disk()["skipped"]["third"]  # type: ignore[index]
    assert report.run("fourth", 1, lambda: {"value": 4}) == {"value": 4}
    assert [path.name for path in report.path.parent.iterdir()] == ["results.json"]


def test_verdicts_tell_met_missed_and_not_measured_apart() -> None:
    found = verdicts({"step_ms": 2.0, "fused_over_baseline": 10.0, "compile_warm_s": 0.31})
    assert set(found) == set(TARGETS)
    assert (
        "met" in found["step_ms"] and "MISSED" in found["fused_over_baseline"] and "MISSED" in found["compile_warm_s"]
    )
    assert found["sooner"].startswith("not measured")


def test_the_computed_ball_is_seen_where_it_is() -> None:
    pictures = scene.make_ball("cpu", size=24, tests=True)
    assert pictures.rgba.shape == (8, 24, 24, 4)
    for index in range(len(pictures)):
        rotation = pictures.poses[index][:, :3]
        assert torch.allclose(rotation.T @ rotation, torch.eye(3), atol=1e-5) and torch.linalg.det(rotation) > 0.999
        assert pictures.rgba[index, 12, 12, 3] == 255 and pictures.rgba[index, 0, 0, 3] == 0
    batch = scene.draw(pictures, 500, torch.Generator().manual_seed(0))
    assert torch.allclose(batch.rays.rays_d.norm(dim=-1), torch.ones(500), atol=1e-5)
    misses = (torch.linalg.cross(batch.rays.rays_o, batch.rays.rays_d).norm(dim=-1) > 0.36).nonzero()[:, 0]
    assert len(misses) > 50 and torch.equal(batch.target[misses], batch.background[misses])


def test_pictures_of_a_capture_look_at_its_object(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "train").mkdir()
    Image.new("RGBA", (8, 6), (10, 20, 30, 255)).save(tmp_path / "train" / "r_0.png")
    matrix = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3.0], [0, 0, 0, 1]]  # Blender's axes: looks along -z
    meta = {"camera_angle_x": 0.7, "frames": [{"file_path": "./train/r_0", "transform_matrix": matrix}]}
    (tmp_path / "transforms_train.json").write_text(json.dumps(meta))
    pictures = scene.load_blender(tmp_path, "train", "cpu")
    rays = scene.rays_of(pictures.poses[0], 8, 6, pictures.focal)
    middle = rays.rays_d.mean(0)
    assert torch.allclose(rays.rays_o[0], torch.tensor([0.0, 0.0, 1.0])) and middle[2] < -0.9
    assert rays.rays_d[0, 0] < 0 < rays.rays_d[0, 1]  # the first pixel is at the left and at the top
    assert pictures.picture(0)[0, 0].tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])


def test_the_baselines_field_is_the_references() -> None:
    """A baseline that computes something else would prove nothing."""
    field = scene.make_field(scene.GridLayout(5, 2, 10, 4, 60), "cpu", hidden=16)
    field.table.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    own = baselines.TorchField(field)
    truth = reference_fused.field_density(field, x)
    assert torch.allclose(own.density(x), truth, rtol=1e-4)
    harmonics = reference.sh_encode(torch.nn.functional.normalize(x, dim=-1))
    sigmas, rgbs = own(x, harmonics)
    geo = reference.mlp(reference.hash_encode(x + 0.5, field.table, field.layout), (field.d1, field.d2))
    logits = reference.mlp(torch.cat([geo, harmonics], 1), (field.c1, field.c2, field.c3))
    assert torch.allclose(sigmas, truth, rtol=1e-4) and torch.allclose(rgbs, logits.sigmoid(), atol=1e-5)


def test_the_baselines_samples_and_compositing_are_the_references() -> None:
    pictures = scene.make_ball("cpu", size=12, tests=True)
    batch = scene.draw(pictures, 60, torch.Generator().manual_seed(0))
    state = scene.OccupancyState("cpu")
    state.bits.random_(generator=torch.Generator().manual_seed(2))
    occupancy = Occupancy(state.bits, scene.GRID_SIZE)
    truth = reference.march(batch.rays, occupancy.bits, scene.GRID_SIZE, scene.MARCHING, batch.jitter, None)
    indices, t_starts, t_ends = baselines.plain_samples(batch.rays, occupancy, batch.jitter)
    assert abs(len(indices) - len(truth)) <= 0.01 * len(truth)  # multiples instead of sums: another rounding
    sigmas = torch.rand(len(truth), generator=torch.Generator().manual_seed(1)) * 50
    rgbs = torch.rand(len(truth), 3, generator=torch.Generator().manual_seed(3))
    lengths = truth.t_ends - truth.t_starts
    rgb, alpha = baselines.composite(sigmas, rgbs, truth.ray_indices, lengths, 60)
    expected = reference.composite(sigmas, rgbs, Samples(*vars(truth).values()), 60)
    assert expected.alpha is not None
    assert torch.allclose(rgb, expected.rgb, atol=1e-5) and torch.allclose(alpha, expected.alpha, atol=1e-5)


def test_time_to_the_baselines_quality() -> None:
    ours, baseline = {"psnr": {"3.0": 20.0, "6.0": 30.0, "10.0": 32.0}}, {"psnr": {"3.0": 10.0, "60.0": 25.0}}
    found = training.sooner(ours, baseline)
    assert found["ours_s"] == pytest.approx(4.5) and found["ratio"] == pytest.approx(60 / 4.5)
    assert training.sooner({"psnr": {"3.0": 20.0}}, baseline)["ratio"] is None
    assert training.sooner({}, baseline) == {}


def test_batches_grow_towards_the_wanted_number_of_samples() -> None:
    size = 1024
    for _ in range(30):
        size = training.next_size(size, 10.0)
    assert 0.8 * training.SAMPLES / 10 < size < 1.1 * training.SAMPLES / 10 and size % 256 == 0
    assert training.next_size(1024, 0.0) % 256 == 0
    sizes = {round_batch(n) for n in range(1, 1 << 17)}
    assert len(sizes) <= 8 * 7 and min(sizes) == 256  # a graph is captured for each
    assert all(0.87 * n <= round_batch(n) <= n for n in range(4096, 1 << 17, 37))
