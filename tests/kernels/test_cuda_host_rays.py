"""The CUDA kernels that composite, run on the CPU: the loss of a step with its gradients, and whole pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import GridLayout, Marching, Occupancy, cuda_params, reference, reference_fused
from nerfstudio_ext.kernels.cuda_sizes import Launch
from nerfstudio_ext.rays import RayOutputs, Samples

from .cases import make_samples, relative_error
from .cuda_on_host import host_kernels, missing
from .cuda_on_host.scene import (
    HostField,
    View,
    address,
    lattice_of,
    make_field,
    make_view,
    pack_field,
    poisoned,
    rounded_to_half,
)
from .tolerances import TOLERANCES, Tolerance

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"CUDA kernels on the CPU: {missing()}")

PICTURE = Tolerance(
    6e-3, "colours from networks in half precision are off by up to 4e-3; samples below 1e-5 have no colour"
)
LONG_SUM = Tolerance(2e-5, "sums over up to 300 samples in float, exponentials of sums of 40; differences that cancel")
CANCEL = Tolerance(5e-5, LONG_SUM.reason + "; what lies behind a sample is a total minus what lies before")
LAYOUT = GridLayout(n_levels=6, n_features=2, log2_table=10, base_resolution=4, finest_resolution=32)
MARCHING = Marching(step=0.04, cone_angle=1 / 128, max_step=0.2, near=0.0)


@dataclass(frozen=True)
class Batch:
    """Samples with what the field said about them, and what the rays should look like."""

    samples: Samples
    logits: Tensor
    target: Tensor
    background: Tensor


def make_batch(counts: list[int], seed: int = 0) -> Batch:
    """Logits from almost empty to opaque, some of them beyond their clamps."""
    generator = torch.Generator().manual_seed(seed)
    samples = make_samples(counts, generator)
    logits = torch.randn(len(samples), 4, generator=generator)
    logits[:, 3] = 2.5 * logits[:, 3]
    logits[::13, 3] = -16.0
    logits[5::37, 3] = 17.0 if counts != [300] else 3.0
    n = len(counts)
    return Batch(samples, logits, torch.rand(n, 3, generator=generator), torch.rand(n, 3, generator=generator))


@dataclass(frozen=True)
class Options:
    """The scalars of a step."""

    stop: float = 1e-4
    huber: float = 0.1
    distortion: float = 0.0
    near_fade: float = 0.0


def reference_step(batch: Batch, options: Options, n_rays: int) -> tuple[dict[str, Tensor], Tensor]:
    """Losses and gradients of the logits in float64, by the rules of `reference_fused.field_step`."""
    logits = batch.logits.double().requires_grad_()
    samples = batch.samples
    exact = Samples(samples.ray_indices, samples.t_starts.double(), samples.t_ends.double(), samples.packed_info)
    rgbs = logits[:, :3].clamp(-20, 20).sigmoid()
    sigmas = logits[:, 3].clamp(-15, 15).exp()
    depths = sigmas * (exact.t_ends - exact.t_starts)
    is_seen = torch.exp(-reference._sum_before(depths, exact)) >= options.stop
    counts = torch.bincount(exact.ray_indices[is_seen], minlength=n_rays)
    seen = Samples(
        exact.ray_indices[is_seen], exact.t_starts[is_seen], exact.t_ends[is_seen],
        torch.stack([counts.cumsum(0) - counts, counts], 1),
    )  # fmt: skip
    rgbs, sigmas = rgbs[is_seen], sigmas[is_seen]
    if options.near_fade > 0:
        fade = (seen.t_starts / options.near_fade).square().clamp(max=1)
        rgbs = reference_fused.scale_gradient(rgbs, fade[:, None])
        sigmas = reference_fused.scale_gradient(sigmas, fade)
    out = reference.composite(sigmas, rgbs, seen, n_rays)
    assert out.alpha is not None
    predicted = out.rgb + (1 - out.alpha[:, None]) * batch.background
    color = reference_fused.color_loss(predicted, batch.target.double(), options.huber)
    distortion = reference_fused.squeezed_distortion(sigmas, seen)
    (color + options.distortion * distortion).backward()
    assert logits.grad is not None
    values = {
        "color": color, "mse": (predicted - batch.target).square().mean(), "distortion": distortion,
        "seen": counts, "rgb": out.rgb, "depth": out.depth, "alpha": out.alpha,
    }  # fmt: skip
    return {name: value.detach() for name, value in values.items()}, logits.grad[is_seen]


def host_step(batch: Batch, options: Options, scale: float = 1024.0) -> tuple[dict[str, Tensor], Tensor]:
    """The same by `step_loss`, `scan_counts` and `list_seen`."""
    n, n_samples = len(batch.target), len(batch.samples)
    library = host_kernels("composite.cu")
    packed = batch.samples.packed_info.int()
    found = torch.cat([batch.logits[:, :3].sigmoid(), batch.logits[:, 3:].clamp(-15, 15).exp()], 1)
    gradients, losses, outputs = poisoned(n_samples, 4), poisoned(n, 3), poisoned(n, 5)
    seen_counts = poisoned(n, dtype=torch.int32)
    arguments = cuda_params.StepLoss(
        address(packed), address(batch.samples.t_starts), address(batch.samples.t_ends), address(found),
        address(batch.target), address(batch.background), n, options.stop, options.huber, options.distortion,
        options.near_fade, scale, address(gradients), address(losses), address(seen_counts), address(outputs),
    )  # fmt: skip
    library.launch("step_loss", arguments, -(-n // 4), 128)
    seen_info, totals = poisoned(n, 2, dtype=torch.int32), poisoned(3, dtype=torch.int32)
    scan = cuda_params.ScanCounts(address(seen_counts), n, n_samples, address(seen_info), address(totals))
    host_kernels("march.cu").launch("scan_counts", scan, 1, 1024)
    seen = poisoned(n_samples, dtype=torch.int32)
    listing = cuda_params.ListSeen(address(packed), address(seen_info), n, address(seen))
    library.launch("list_seen", listing, -(-n // 4), 128)
    index = seen[: int(totals[0])].long()
    values = {
        "color": losses[:, 0].sum() / (3 * n), "mse": losses[:, 1].sum() / (3 * n), "distortion": losses[:, 2].mean(),
        "seen": seen_counts.long(), "rgb": outputs[:, :3], "depth": outputs[:, 3], "alpha": outputs[:, 4],
    }  # fmt: skip
    return values, gradients[index] / scale


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(huber=0.0),
        Options(distortion=0.1),
        Options(near_fade=1.5),
        Options(0.3, 0.1, 0.01, 1.0),
    ],
    ids=["plain", "squared error", "distortion", "near fade", "all"],
)
@pytest.mark.parametrize("counts", [[1], [0], [300], [0, 31, 32, 33, 0, 127, 1, 70, 12, 0]], ids=str)
def test_loss_and_gradients_match_the_reference(counts: list[int], options: Options) -> None:
    batch = make_batch(counts)
    truth, d_truth = reference_step(batch, options, len(counts))
    found, d_found = host_step(batch, options)
    assert torch.equal(found["seen"], truth["seen"])
    for name in ("color", "mse", "rgb", "depth", "alpha", *(["distortion"] if options.distortion else [])):
        assert relative_error(found[name].reshape(-1), truth[name].reshape(-1)) <= LONG_SUM.bound, name
    assert d_found.shape == d_truth.shape
    if len(d_truth):
        assert relative_error(d_found[:, :3], d_truth[:, :3]) <= LONG_SUM.bound
        assert relative_error(d_found[:, 3], d_truth[:, 3]) <= CANCEL.bound


def test_dropped_rays_carry_nothing() -> None:
    batch = make_batch([5, 40, 3])
    dropped = replace(batch, samples=replace(batch.samples, packed_info=batch.samples.packed_info.clone()))
    dropped.samples.packed_info[1] = torch.tensor([0, -1])
    found, gradients = host_step(dropped, Options())
    truth, d_truth = host_step(batch, Options())
    assert found["seen"].tolist() == [truth["seen"][0], 0, truth["seen"][2]]
    kept = torch.cat([d_truth[: int(truth["seen"][0])], d_truth[-int(truth["seen"][2]) :]])
    assert torch.equal(gradients, kept)
    assert found["color"] < truth["color"]


def render(
    field: HostField,
    view: View,
    marching: Marching = MARCHING,
    stop: float = 1e-3,
    blocks: int = 1,
    size: tuple[int, int] = (0, 0),
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    cancel: Tensor | None = None,
) -> RayOutputs:
    """A picture by `render_fused`."""
    n = len(view.rays)
    queue = torch.zeros(1, dtype=torch.int32)
    rgb, depth, alpha = poisoned(n + 1, 3), poisoned(n + 1), poisoned(n + 1)
    arguments = cuda_params.RenderFused(
        field.view, view.ray_list, view.bits, lattice_of(marching), stop, background, *size, address(queue),
        address(cancel), address(rgb), address(depth), address(alpha),
    )  # fmt: skip
    library = host_kernels("render.cu", field.sizes.defines)
    four_warps = Launch(128, field.sizes.render_shared, 1)
    launch = four_warps if blocks == 1 else field.sizes.render_launch(232448, 233472)
    library.launch("render_fused", arguments, blocks, launch.threads, launch.shared)
    assert rgb[-1].isnan().all() and depth[-1].isnan() and alpha[-1].isnan()
    return RayOutputs(rgb[:-1], depth[:-1], alpha[:-1])


def reference_picture(field: kernels.FieldTensors, view: View, stop: float = 1e-3) -> RayOutputs:
    """The same by the reference, which sees numbers rounded to halves."""
    exact = rounded_to_half(field)
    return kernels.render_field(exact, view.rays, view.occupancy, MARCHING, stop, backend="reference")


def check_picture(found: RayOutputs, truth: RayOutputs) -> None:
    """Colours, opacity and distance are those of the reference."""
    assert found.alpha is not None and truth.alpha is not None
    assert (found.rgb - truth.rgb).abs().max() <= PICTURE.bound
    assert (found.alpha - truth.alpha).abs().max() <= PICTURE.bound
    assert (found.depth - truth.depth).abs().max() <= TOLERANCES["render_field", "depth"].bound * 2


@pytest.mark.parametrize("n_rays, n_cascades, share", [(1, 2, 0.3), (31, 1, 0.5), (127, 2, 0.3), (127, 3, 1.0)])
def test_pictures_match_the_reference(n_rays: int, n_cascades: int, share: float) -> None:
    field = make_field(LAYOUT, 32, 16, aabb_scale=2.0 ** (n_cascades - 1), density=2.0)
    view = make_view(n_rays, n_cascades, share)
    truth = reference_picture(field, view)
    assert truth.rgb.max() > 0.1
    check_picture(render(pack_field(field), view), truth)


@pytest.mark.parametrize("layout, hidden, color", [(GridLayout(8, 4, 9, 4, 24), 64, 64), (LAYOUT, 128, 128)], ids=str)
def test_pictures_of_other_shapes(layout: GridLayout, hidden: int, color: int) -> None:
    field, view = make_field(layout, hidden, color, density=2.0), make_view(31)
    check_picture(render(pack_field(field), view), reference_picture(field, view))


def test_nothing_to_see() -> None:
    field, view = pack_field(make_field(LAYOUT, 32, 16)), make_view(31, share=0.0)
    found = render(field, view, background=(0.25, 0.5, 0.75))
    assert found.alpha is not None and not found.alpha.any() and not found.depth.any()
    assert torch.equal(found.rgb, torch.tensor([0.25, 0.5, 0.75]).expand(31, 3))


def test_background_fills_what_is_clear() -> None:
    field, view = pack_field(make_field(LAYOUT, 32, 16)), make_view(31)
    plain, filled = render(field, view), render(field, view, background=(1.0, 0.5, 0.0))
    assert plain.alpha is not None
    expected = plain.rgb + (1 - plain.alpha[:, None]) * torch.tensor([1.0, 0.5, 0.0])
    assert torch.allclose(filled.rgb, expected, atol=1e-6)


@pytest.mark.parametrize("width, height", [(8, 4), (19, 7), (3, 41), (1, 1)])
def test_tiles_visit_every_pixel_once(width: int, height: int) -> None:
    field, view = pack_field(make_field(LAYOUT, 32, 16)), make_view(width * height, share=0.1)
    in_order, in_tiles = render(field, view), render(field, view, size=(width, height), blocks=2)
    assert torch.allclose(in_tiles.rgb, in_order.rgb, atol=1e-4)  # others share the tile: other samples are skipped
    assert torch.equal(in_tiles.depth, in_order.depth)


def test_cancelled_pictures_end_at_once() -> None:
    field, view = pack_field(make_field(LAYOUT, 32, 16)), make_view(31)
    found = render(field, view, cancel=torch.ones(1, dtype=torch.int32))
    assert found.rgb.isnan().all()
    whole = render(field, view, cancel=torch.zeros(1, dtype=torch.int32))
    assert whole.rgb.isfinite().all()


def test_rays_are_cut_to_their_own_range() -> None:
    field, view = make_field(LAYOUT, 32, 16, density=2.0), make_view(63, share=0.6)
    middle = 0.5 * (view.rays.t_min + view.rays.t_max)
    near = replace(view, rays=replace(view.rays, t_max=middle))
    check_picture(render(pack_field(field), near), reference_picture(field, near))


def test_occupancy_hides_what_is_outside() -> None:
    field, view = pack_field(make_field(LAYOUT, 32, 16)), make_view(31, share=0.3)
    full = replace(view, occupancy=Occupancy(torch.full_like(view.occupancy.bits, -1), 16))
    some, everything = render(field, view), render(field, full)
    assert some.alpha is not None and everything.alpha is not None
    assert (some.alpha <= everything.alpha + 1e-3).all() and some.alpha.sum() < everything.alpha.sum()
