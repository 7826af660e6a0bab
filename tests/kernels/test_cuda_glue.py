"""The Python side of the CUDA back end, driven on the CPU: its launches go to the kernels compiled for the host.

What this shows: the right kernels in the right order with the right arguments and sizes, and results that agree with
the reference. What it cannot show: graphs, streams, and the machine itself; those tests carry the mark `cuda`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from nerfstudio_ext import kernels
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.kernels import (
    FieldTensors,
    GridLayout,
    StepOptions,
    cuda_launch,
    cuda_params,
    cuda_prepared,
    dispatch,
)
from nerfstudio_ext.kernels.cuda_launch import ENTRIES, Launchable, Launcher, program_of
from nerfstudio_ext.kernels.cuda_sizes import FieldSizes
from nerfstudio_ext.kernels.cuda_step import FieldSpace, loss_scale_for
from nerfstudio_ext.kernels.cuda_train import FusedTrainer
from nerfstudio_ext.kernels.hints import Hints, hints, picture

from . import cuda_on_host
from .cases import CASES, evaluate, relative_error
from .cuda_on_host.scene import rounded_to_half
from .test_fused import MARCHING, NAMES, Scene, make_scene
from .tolerances import TOLERANCES

CPU = torch.device("cpu")
on_host = pytest.mark.skipif(bool(cuda_on_host.missing()), reason=f"CUDA kernels on the host: {cuda_on_host.missing()}")

HALF_LOSS = 3e-3
"""Colours from matrices and activations rounded to 11 bits, through five layers."""
HALF_GRADIENT = 3e-2
"""Gradients pass the same layers twice; the largest entry sets the scale."""


class HostLauncher(Launcher):
    """Sends launches to the host and notes their names."""

    def __init__(self) -> None:
        self.device, self.processors = CPU, 2
        self.shared_per_block, self.shared_per_processor = 99 << 10, 100 << 10
        self._kernels = {}
        self.names: list[str] = []
        self.after: dict[str, Callable[[], object]] = {}

    def load(self, name: str, shape: FieldSizes | None, deterministic: bool) -> Launchable:
        defines = program_of(name, shape, deterministic=deterministic).options
        host = cuda_on_host.host_kernels(ENTRIES[name].file, defines)

        def launch(grid: int, block: int, *arguments: object, shared_bytes: int = 0) -> None:
            (structure,) = arguments
            assert isinstance(structure, ctypes.Structure)
            self.names.append(name)
            if grid:
                host.launch(name, structure, grid, block, shared_bytes)
            self.after.get(name, lambda: None)()

        return launch


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostLauncher]:
    """The back end "cuda" on CPU tensors."""
    launcher = HostLauncher()
    monkeypatch.setitem(cuda_launch._launchers, CPU, launcher)
    monkeypatch.setattr(cuda_prepared, "_entries", [])
    for op, row in dispatch.OPS.items():
        if not row["cuda"].missing:
            stand_in = replace(row["cuda"], devices=("cpu",), probe="")
            monkeypatch.setitem(dispatch.OPS, op, {**row, "cuda": stand_in})
    dispatch.forget()
    yield launcher
    dispatch.forget()


# what needs no kernels


def test_every_kernel_has_a_launch_that_agrees_with_its_file() -> None:
    declared = {name: file for file, structures in cuda_params.KERNELS.items() for name in structures}
    assert {name: entry.file for name, entry in ENTRIES.items()} == {n: f for n, f in declared.items() if n in ENTRIES}
    assert set(ENTRIES) >= {name for name, file in declared.items()}


def test_number_of_blocks() -> None:
    launcher, shape = HostLauncher(), FieldSizes(16, 2, 64, 64)
    assert launcher.plan(ENTRIES["march_count"], 129, None) == (2, 128, 0)
    assert launcher.plan(ENTRIES["count_bad"], 10**7, None) == (16, 256, 0)
    assert launcher.plan(ENTRIES["scan_counts"], None, None) == (1, 1024, 0)
    assert launcher.plan(ENTRIES["step_loss"], 0, None)[0] == 0
    blocks, threads, shared = launcher.plan(ENTRIES["field_density"], 10**6, shape)
    assert blocks % 2 == 0 and threads % 32 == 0 and shared <= 99 << 10
    assert launcher.plan(ENTRIES["field_density"], 1, shape)[0] == 1
    assert launcher.plan(ENTRIES["field_forward"], None, shape)[0] == blocks
    assert launcher.plan(ENTRIES["field_backward"], None, shape) == (2, 256, shape.backward_shared)


@pytest.mark.parametrize("memory", [64 << 10, 99 << 10, 227 << 10])
@pytest.mark.parametrize("shape", [(16, 2, 64, 64), (8, 4, 128, 128), (16, 4, 16, 128)])
def test_every_plan_fits_the_machine(memory: int, shape: tuple[int, int, int, int]) -> None:
    launcher = HostLauncher()
    launcher.shared_per_block, launcher.shared_per_processor = memory, memory
    fitted = launcher.fitted(cuda_launch.sizes_of(*shape))
    for name in ("field_forward", "render_fused", "field_backward"):
        blocks, threads, shared = launcher.plan(ENTRIES[name], None, fitted)
        assert blocks >= 2 and 32 <= threads <= 1024 and shared <= memory, name


@pytest.mark.parametrize("shape", [(17, 2, 64, 64), (16, 3, 64, 64), (16, 8, 64, 64), (8, 4, 144, 64), (8, 4, 64, 24)])
def test_fields_the_kernels_cannot_be_built_for_are_refused(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="the CUDA kernels have no field of .*--backend reference"):
        cuda_launch.sizes_of(*shape)


def test_kernels_never_get_memory_of_another_kind() -> None:
    assert cuda_launch.floats(None) is None
    with pytest.raises(ValueError, match="contiguous torch.float32"):
        cuda_launch.floats(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="strides"):
        cuda_launch.floats(torch.zeros(4, 4).T)


def test_loss_scale_takes_the_share_of_a_ray_out() -> None:
    for n_rays in (1, 100, 4096):
        scale = loss_scale_for(n_rays, 0)
        assert 128 / 1.5 < scale / (3 * n_rays) < 128 * 1.5 and scale == 2 ** round(torch.tensor(scale).log2().item())
        assert loss_scale_for(n_rays, 3) == scale / 8


class _Token:
    def __init__(self) -> None:
        self.is_cancelled = False
        self.callbacks: list[Callable[[], None]] = []

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)


def test_hints_belong_to_one_picture_and_one_thread() -> None:
    token = _Token()
    elsewhere: list[tuple[int, int]] = []
    with picture(4, 3, token):
        assert hints().size == (4, 3)
        address = hints().cancel_address(CPU)
        assert address is not None and address == hints().cancel_address(CPU) and len(token.callbacks) == 1
        word = ctypes.cast(address, ctypes.POINTER(ctypes.c_int32))
        assert word[0] == 0
        token.callbacks[0]()
        assert word[0] == 1
        thread = threading.Thread(target=lambda: elsewhere.append(hints().size))
        thread.start()
        thread.join()
    assert elsewhere == [(0, 0)] == [hints().size]
    assert Hints().cancel_address(CPU) is None
    token.is_cancelled = True
    late = Hints((1, 1), token)
    assert ctypes.cast(late.cancel_address(CPU) or 0, ctypes.POINTER(ctypes.c_int32))[0] == 1


# with the kernels


@on_host
@pytest.mark.parametrize("op", ["occ_refresh", "occ_pack", "occ_select"])
@pytest.mark.parametrize("n", [0, 1, 127])
def test_occupancy_operations(host: HostLauncher, op: str, n: int) -> None:
    case = CASES[op](n, torch.Generator().manual_seed(3))
    found, truth = evaluate(case, "cuda", torch.float32), evaluate(case, "reference", torch.float64)
    for name, value in found.outputs.items():
        assert relative_error(value, truth.outputs[name]) <= 1e-7, name
    assert host.names


@on_host
@pytest.mark.parametrize("op", ["ray_aabb", "weights_of", "composite", "hash_encode"])
@pytest.mark.parametrize("n", [0, 1, 31])
@pytest.mark.parametrize("strided", [False, True])
def test_operations_in_float_with_all_gradients(host: HostLauncher, op: str, n: int, strided: bool) -> None:
    case = CASES[op](n, torch.Generator().manual_seed(3))
    found = evaluate(case, "cuda", torch.float32, strided=strided)
    truth = evaluate(case, "reference", torch.float64)
    expected = {**truth.outputs, **truth.gradients}
    assert {**found.outputs, **found.gradients}.keys() == expected.keys()
    for name, value in {**found.outputs, **found.gradients}.items():
        assert relative_error(value, expected[name]) <= TOLERANCES[op, name].bound, name


@on_host
def test_a_deterministic_step_is_the_step(host: HostLauncher) -> None:
    _check_step(_half_scene(61), StepOptions(MARCHING, deterministic=True))
    assert "table_to_float" in host.names


@on_host
@pytest.mark.parametrize("n_rays", [0, 1, 61])
@pytest.mark.parametrize("max_samples", [None, 3])
def test_march_is_the_references(host: HostLauncher, n_rays: int, max_samples: int | None) -> None:
    scene = make_scene(n_rays)
    arguments = (scene.rays, scene.occupancy.bits, scene.occupancy.grid_size, MARCHING, scene.jitter, max_samples)
    found, truth = (kernels.march(*arguments, backend=name) for name in ("cuda", "reference"))
    for name in ("ray_indices", "t_starts", "t_ends", "packed_info"):
        assert torch.equal(getattr(found, name), getattr(truth, name)), name


def _half_scene(n_rays: int) -> Scene:
    scene = make_scene(n_rays)
    return replace(scene, field=rounded_to_half(scene.field))


@on_host
def test_render_matches_the_reference(host: HostLauncher) -> None:
    scene = _half_scene(61)
    arguments = (scene.field, scene.rays, scene.occupancy, MARCHING)
    found, truth = (kernels.render_field(*arguments, backend=name) for name in ("cuda", "reference"))
    assert (found.rgb - truth.rgb).abs().max() < 6e-3
    assert found.alpha is not None and truth.alpha is not None
    assert (found.alpha - truth.alpha).abs().max() < 6e-3 and (found.depth - truth.depth).abs().max() < 3e-2


@on_host
def test_a_pictures_tiles_change_nothing(host: HostLauncher) -> None:
    scene = _half_scene(60)
    plain = kernels.render_field(scene.field, scene.rays, scene.occupancy, MARCHING, backend="cuda")
    with picture(12, 5):
        tiled = kernels.render_field(scene.field, scene.rays, scene.occupancy, MARCHING, backend="cuda")
    assert torch.allclose(plain.rgb, tiled.rgb, atol=1e-6) and torch.allclose(plain.depth, tiled.depth, atol=1e-5)


@on_host
def test_a_cancelled_picture_costs_nothing(host: HostLauncher) -> None:
    scene, token = _half_scene(61), _Token()
    token.is_cancelled = True
    with picture(61, 1, token):
        found = kernels.render_field(scene.field, scene.rays, scene.occupancy, MARCHING, backend="cuda")
    assert not found.rgb.any() and not found.alpha.any()  # type: ignore[union-attr]


@on_host
def test_density_matches_the_reference_and_conversions_are_kept(host: HostLauncher) -> None:
    field = _half_scene(1).field
    x = torch.randn(97, 3, generator=torch.Generator().manual_seed(1))
    truth = kernels.field_density(field, x, backend="reference")
    for _ in range(2):
        found = kernels.field_density(field, x, backend="cuda")
        assert ((found - truth).abs() / truth).max() < 2e-2
    assert host.names.count("cast_table") == 1  # nothing changed between the calls
    field.table.mul_(2)
    doubled = kernels.field_density(field, x, backend="cuda")
    assert host.names.count("cast_table") == 2
    truth = kernels.field_density(field, x, backend="reference")
    assert ((doubled - truth).abs() / truth).max() < 4e-2
    trained = replace(field, table=field.table.clone().requires_grad_())
    for _ in range(2):  # an optimiser may have changed it without telling
        kernels.field_density(trained, x, backend="cuda")
    assert host.names.count("cast_table") == 4
    del field, trained
    assert all(source() is None for entry in cuda_prepared._entries for source in entry.sources)


@on_host
@pytest.mark.parametrize(
    "options",
    [StepOptions(MARCHING), StepOptions(MARCHING, stop_transmittance=0.3, distortion=0.01, near_fade=1.0)],
    ids=["plain", "all"],
)
def test_step_matches_the_reference(host: HostLauncher, options: StepOptions) -> None:
    _check_step(_half_scene(61), options)


def _step(
    scene: Scene, backend: str, options: StepOptions, space: FieldSpace | None = None
) -> tuple[object, list[torch.Tensor]]:
    moved = scene.to(torch.float32, "cpu", needs_gradient=True)
    arguments = (moved.field, moved.rays, moved.jitter, moved.target, moved.background, moved.occupancy, options)
    result = kernels.field_step(*arguments, 20_000, space, backend=backend)
    result.loss.backward()
    return result, [getattr(moved.field, name).grad.clone() for name in NAMES]


def _check_step(scene: Scene, options: StepOptions, space: FieldSpace | None = None) -> None:
    (truth, expected), (found, gradients) = _step(scene, "reference", options), _step(scene, "cuda", options, space)
    assert found.n_marched == truth.n_marched and found.n_dropped == 0  # type: ignore[attr-defined]
    assert abs(found.n_seen - truth.n_seen) <= 2 + 0.01 * truth.n_seen  # type: ignore[attr-defined]
    for name in ("loss", "color_loss", "mse", "distortion"):
        value, wanted = (float(torch.as_tensor(getattr(each, name)).detach()) for each in (found, truth))
        assert value == pytest.approx(wanted, rel=HALF_LOSS), name
    for name, value, wanted in zip(NAMES, gradients, expected, strict=True):
        error = float((value - wanted).norm() / wanted.norm())
        assert error < HALF_GRADIENT, f"gradient of {name} is off by {error:.1e}"


@on_host
def test_memory_is_reused_and_left_clean(host: HostLauncher) -> None:
    """Larger, smaller and empty batches in one space: nothing of one reaches the next."""
    space = FieldSpace()
    scene, options = _half_scene(61), StepOptions(MARCHING)
    _check_step(scene, options, space)
    memory = space._memory
    _check_step(scene.of_rays(slice(0, 17)), options, space)
    result, gradients = _step(scene.of_rays(slice(0, 0)), "cuda", options, space)
    assert float(result.loss.detach()) == 0 and not any(gradient.any() for gradient in gradients)  # type: ignore[attr-defined]
    _check_step(scene, options, space)
    assert space._memory is memory


@on_host
def test_rays_without_room_are_counted(host: HostLauncher) -> None:
    scene = _half_scene(61)
    moved = scene.to(torch.float32, "cpu", needs_gradient=True)
    arguments = (moved.field, moved.rays, moved.jitter, moved.target, moved.background, moved.occupancy)
    found = kernels.field_step(*arguments, StepOptions(MARCHING), 300, backend="cuda")
    assert 0 < found.n_dropped < 61 and 0 < found.n_seen <= 300
    found.loss.backward()
    assert all(getattr(moved.field, name).grad.isfinite().all() for name in NAMES)


@on_host
def test_large_weights_give_finite_gradients(host: HostLauncher) -> None:
    scene = _half_scene(31)
    field = replace(scene.field, d2=scene.field.d2 * 60, c3=scene.field.c3 * 300, c2=scene.field.c2 * 60)
    _, gradients = _step(replace(scene, field=field), "cuda", StepOptions(MARCHING))
    assert all(gradient.isfinite().all() for gradient in gradients)


@on_host
def test_overflowing_gradients_are_made_again_at_a_smaller_scale(host: HostLauncher) -> None:
    scene, space, remaining = _half_scene(31), FieldSpace(), [2]

    def overflow() -> None:
        if remaining[0]:
            remaining[0] -= 1
            assert space._memory is not None
            space._memory.network_gradients[7] = torch.nan

    host.after["reduce_networks"] = overflow
    _check_step(scene, StepOptions(MARCHING), space)
    assert space.halvings == 2 and host.names.count("field_backward") == 3


@on_host
def test_the_fused_trainer_learns_as_torchs_adam_does(host: HostLauncher) -> None:
    scene, options = _half_scene(61), StepOptions(MARCHING)
    own, other = (scene.to(torch.float32, "cpu", needs_gradient=True) for _ in range(2))
    trainer = FusedTrainer(own.field, own.occupancy, options, 20_000, 64)
    adam = torch.optim.Adam(list(other.field.tensors), lr=1e-2, betas=(0.9, 0.99), eps=1e-10)
    start = [tensor.detach().clone() for tensor in own.field.tensors]
    for number in range(4):
        arguments = (other.field, other.rays, other.jitter, other.target, other.background, other.occupancy, options)
        expected = kernels.field_step(*arguments, 20_000, backend="reference")
        trainer.step(own.rays, own.jitter, own.target, own.background, 1e-2)
        assert trainer.look().loss == pytest.approx(float(expected.loss.detach()), rel=0.01 * (1 + number))
        expected.loss.backward()
        adam.step()
        adam.zero_grad()
    for name, value, wanted, before in zip(NAMES, own.field.tensors, other.field.tensors, start, strict=True):
        moved, expected_move = value - before, wanted - before
        assert torch.nn.functional.cosine_similarity(moved.flatten(), expected_move.flatten(), 0) > 0.9, name
    assert trainer.look().n_bad_steps == 0


@on_host
def test_steps_whose_gradients_overflow_change_nothing(host: HostLauncher) -> None:
    scene = _half_scene(31).to(torch.float32, "cpu", needs_gradient=False)
    trainer = FusedTrainer(scene.field, scene.occupancy, StepOptions(MARCHING), 20_000, 64)
    before = [tensor.clone() for tensor in scene.field.tensors]
    host.after["reduce_networks"] = lambda: trainer.memory.network_gradients[7].fill_(torch.inf)
    trainer.step(scene.rays, scene.jitter, scene.target, scene.background, 1e-2)
    assert trainer.look().n_bad_steps == 1
    host.after.clear()
    assert all(torch.equal(a, b) for a, b in zip(scene.field.tensors, before, strict=True))
    trainer.step(scene.rays, scene.jitter, scene.target, scene.background, 1e-2)
    assert trainer.look().n_bad_steps == 1 and not torch.equal(scene.field.d1, before[1])


@on_host
@pytest.mark.parametrize("features", [1, 4])
def test_other_grids(host: HostLauncher, features: int) -> None:
    scene = make_scene(31)
    layout = GridLayout(3, features, 12, 8, 32)
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(layout.n_rows, features, generator=generator)
    d1 = torch.randn(layout.n_outputs, 32, generator=generator) / 3
    field = FieldTensors(layout, table, d1, *scene.field.tensors[2:], scene.field.aabb_scale)
    _check_step(replace(scene, field=rounded_to_half(field)), StepOptions(MARCHING))
