"""On a GPU: what only the machine itself can show. Not run without one, and listed so."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pytest
import torch

from nerfstudio_ext import kernels
from nerfstudio_ext.cli import main
from nerfstudio_ext.kernels import StepOptions, dispatch, rtc
from nerfstudio_ext.kernels.bench_cuda import checks, scene, training
from nerfstudio_ext.kernels.bench_cuda.rendering import STOP, fused
from nerfstudio_ext.kernels.cuda_step import FieldSpace
from nerfstudio_ext.kernels.hints import picture
from nerfstudio_ext.renderer import CancelToken, RayRenderer
from nerfstudio_ext.training.runs import open_run
from tests.cli.tiny_capture import TINY_METHOD

from .cases import CASES, evaluate, relative_error
from .test_fused import MARCHING, NAMES, make_scene
from .tolerances import TOLERANCES

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def trained() -> training.Ours:
    """The computed ball after a few hundred steps."""
    ours = training.Ours(scene.make_ball("cuda", size=200))
    for number in range(600):
        ours.step(number / 600)
    return ours


def test_the_back_end_is_what_auto_takes() -> None:
    assert rtc.absence() == ""
    for op, row in dispatch.OPS.items():
        if not row["cuda"].missing:
            assert dispatch.resolve(op, "cuda").backend == "cuda", op


def test_every_fused_operation_at_odd_sizes_in_poisoned_memory() -> None:
    found = checks.check_all(seeds=(0,))
    assert not found["failed"], found


def test_training_learns_the_ball(trained: training.Ours) -> None:
    tests = scene.make_ball("cuda", size=200, tests=True)
    assert training.psnr_of(trained, tests) > 24
    assert trained.trainer.look().n_bad_steps < 30


def test_a_trained_fields_picture_is_the_references(trained: training.Ours) -> None:
    pose = trained.pictures.poses[3]
    rays = scene.rays_of(pose, 120, 120, 144.0)
    occupancy = trained.state.occupancy()
    own = fused(trained.field, rays, occupancy, (120, 120))
    truth = kernels.render_field(trained.field, rays, occupancy, scene.MARCHING, STOP, backend="reference")
    error = (own.rgb - truth.rgb).abs()
    assert -10 * math.log10(float(error.square().mean())) >= 45 and float(error.max()) <= 2 / 255


def test_deterministic_steps_are_bit_equal() -> None:
    moved = make_scene(257).to(torch.float32, "cuda", needs_gradient=True)
    options, found = StepOptions(MARCHING, deterministic=True), []
    arguments = (
        moved.field,
        moved.rays,
        moved.jitter,
        moved.target,
        moved.background,
        moved.occupancy,
        options,
        50_000,
    )
    for _ in range(3):
        result = kernels.field_step(*arguments, backend="cuda")
        result.loss.backward()
        found.append([getattr(moved.field, name).grad.clone() for name in NAMES])
        for name in NAMES:
            getattr(moved.field, name).grad = None
    assert all(torch.equal(a, b) for later in found[1:] for a, b in zip(found[0], later, strict=True))


def test_a_captured_step_is_the_step() -> None:
    """The first call of a size runs kernel by kernel, the second captures a graph, the third replays it."""
    moved = make_scene(256).to(torch.float32, "cuda", needs_gradient=True)
    space, options, losses, gradients = FieldSpace(), StepOptions(MARCHING, deterministic=True), [], []
    for _ in range(4):
        arguments = (moved.field, moved.rays, moved.jitter, moved.target, moved.background, moved.occupancy)
        result = kernels.field_step(*arguments, options, 50_000, space, backend="cuda")
        result.loss.backward()
        losses.append(float(result.loss))
        gradients.append([getattr(moved.field, name).grad.clone() for name in NAMES])
        for name in NAMES:
            getattr(moved.field, name).grad = None
    assert space.n_replayed == 3 and len(set(losses)) == 1
    assert all(torch.equal(a, b) for later in gradients[1:] for a, b in zip(gradients[0], later, strict=True))
    with torch.no_grad():
        moved.field.table.mul_(2)  # a graph reads the present values
    arguments = (moved.field, moved.rays, moved.jitter, moved.target, moved.background, moved.occupancy)
    assert float(kernels.field_step(*arguments, options, 50_000, space, backend="cuda").loss) != losses[0]


def test_rendering_in_another_thread_does_not_disturb_training(trained: training.Ours) -> None:
    rays = scene.rays_of(trained.pictures.poses[0], 200, 200, 240.0)
    field, occupancy = scene.detached(trained.field), trained.state.occupancy()
    expected = fused(field, rays, occupancy, (200, 200)).rgb
    pictures: list[torch.Tensor] = []
    done = threading.Event()

    def render() -> None:
        while not done.is_set():
            pictures.append(fused(field, rays, occupancy, (200, 200)).rgb.cpu())

    thread = threading.Thread(target=render)
    thread.start()
    for _ in range(8):  # no refresh of the occupancy falls into these
        trained.step(1.0)
    torch.cuda.synchronize()
    done.set()
    thread.join()
    assert pictures and all(torch.equal(each, expected.cpu()) for each in pictures)


def test_a_cancelled_picture_ends_early(trained: training.Ours) -> None:
    rays = scene.rays_of(trained.pictures.poses[0], 4000, 3000, 3600.0)
    field, occupancy, token = trained.field, trained.state.occupancy(), CancelToken()

    def seconds() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        with picture(4000, 3000, token):
            for _ in range(10):
                kernels.render_field(field, rays, occupancy, scene.MARCHING, 0.0, backend="cuda")
            torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds()
    whole = seconds()
    timer = threading.Timer(whole / 5, token.cancel)
    timer.start()
    assert seconds() < 0.7 * whole


def test_train_on_the_gpu_then_look_on_the_cpu(tiny_capture: Path, tmp_path: Path) -> None:
    words = ["train", "ngp", str(tiny_capture), "--output-dir", str(tmp_path), "--no-viewer", "--max-steps", "60"]
    assert main([*words, "--device", "cuda", "--max-images", "1", *TINY_METHOD]) == 0
    (run,) = tmp_path.glob("ball/ngp/*")
    pictures = []
    for device in ("cuda", "cpu"):
        opened = open_run(run, device=device)
        renderer = opened.renderer()
        assert isinstance(renderer, RayRenderer) and renderer.device.type == device
        pictures.append(renderer.render(opened.meta.training_cameras()[0]).rgb)
    difference = pictures[0] - pictures[1]
    assert -10 * math.log10(float(difference.square().mean())) > 40
    assert main(["train", "--resume", str(run), "--device", "cuda", "--no-viewer", "--max-steps", "70"]) == 0


@pytest.mark.parametrize("backend", ["nerfacc", "tcnn"])
def test_adapters_keep_the_contracts(backend: str) -> None:
    ops = [op for op in CASES if not dispatch.OPS[op][backend].missing]
    absence = dispatch._absence(ops[0], backend)
    if absence:
        pytest.skip(absence)
    for op in ops:
        case = CASES[op](127, torch.Generator().manual_seed(3))
        truth = evaluate(case, "reference", torch.float64)
        if op == "mlp":  # its widths differ; tiny-cuda-nn has one width
            continue
        found = evaluate(case, backend, torch.float32, "cuda")
        for name, value in {**found.outputs, **found.gradients}.items():
            bound = 10 * TOLERANCES[op, name].bound + 2e-3 * (backend == "tcnn")
            assert relative_error(value, {**truth.outputs, **truth.gradients}[name]) <= bound, f"{op}: {name}"


def test_nerfacc_marches_our_lattice() -> None:
    absence = dispatch._absence("march", "nerfacc")
    if absence:
        pytest.skip(absence)
    moved = make_scene(257).to(torch.float32, "cuda")
    marching = kernels.Marching(0.04, 0.0, 0.04, 0.0)
    arguments = (moved.rays, moved.occupancy.bits, moved.occupancy.grid_size, marching, moved.jitter)
    own, truth = (kernels.march(*arguments, backend=name) for name in ("nerfacc", "reference"))
    assert abs(len(own) - len(truth)) <= 2 + 1e-3 * len(truth)
    shared = own.packed_info[:, 1] == truth.packed_info[:, 1]
    assert shared.float().mean() > 0.98
