"""Bits in the colours of a scene: read from places nobody stood at, within the budget, geometry untouched."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.color_residual import ColorResidual
from nerfstudio_ext.fields.sector_colors import SectorColors
from nerfstudio_ext.kernels import SectorLayout
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.stages.stega.embed import Embedder, EmbedSettings, apply_update
from nerfstudio_ext.stages.stega.extractor import Extractor, load_extractor
from nerfstudio_ext.stages.stega.keys import Key
from nerfstudio_ext.stages.stega.objective import CodeBits, capacity
from nerfstudio_ext.stages.stega.picture_marks import read_features
from nerfstudio_ext.stages.stega.row_weights import row_weights
from nerfstudio_ext.stages.stega.scene_views import (
    SceneView,
    cameras_between,
    cameras_that_fill,
    fit_size,
    pixel_size,
    render_view,
    render_views,
)
from nerfstudio_ext.stages.stega.touch_up import touch_up
from tests.methods.ball_scene import RADIUS, look, make_meta

BITS, SIZE, PSNR, WORST = 16, 96, 33.0, 29.0
KEY, WHITE = Key("ball"), torch.ones(3)


class Ball:
    """The striped ball as a method that needs no training."""

    def render_rays(self, rays: Rays) -> RayOutputs:
        rgb, alpha = look(rays)
        along = -(rays.rays_o * rays.rays_d).sum(-1)
        inside = RADIUS**2 - (rays.rays_o + along[:, None] * rays.rays_d).square().sum(-1)
        depth = along - inside.clamp_min(0).sqrt()
        surface = rays.rays_o + depth[:, None] * rays.rays_d
        grain = 0.5 + 0.5 * torch.sin(120 * surface @ torch.tensor([[1.0, 2.0, 0.5], [-1.5, 0.5, 2.0]]).T).mean(
            1, keepdim=True
        )
        return RayOutputs((0.7 * rgb + 0.25 * grain) * alpha[:, None], depth * alpha, alpha)


def cameras() -> Cameras:
    """Near enough that the ball fills the picture."""
    meta = make_meta(size=SIZE)
    nearer = torch.tensor([1.0, 1.0, 1.0, 0.7], dtype=torch.float64)
    return Cameras([dataclasses.replace(camera, c2w=camera.c2w * nearer) for camera in meta.cameras])


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor().requires_grad_(False)


@pytest.fixture(scope="module")
def views() -> list[SceneView]:
    photos = cameras().select(tuple(range(0, 48, 2)))
    return render_views(Ball(), photos, 120, torch.Generator().manual_seed(0), SilentProgress())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def unseen() -> list[SceneView]:
    return [render_view(Ball(), cameras()[i]) for i in (7, 15, 23, 31)]  # type: ignore[arg-type]


def no_colors() -> SectorColors:
    return SectorColors(SectorLayout(8, 48), 1.0)


def empty_residual(bands: int = 2) -> ColorResidual:
    return ColorResidual.over(1.0, bands=bands, n_levels=2, log2_table=14, base_resolution=16, finest_resolution=64)


def signs() -> torch.Tensor:
    return 2.0 * torch.from_numpy(KEY.bits("a message", BITS).astype(np.float32)) - 1


def embedder(colors: SectorColors, views: list[SceneView], extractor: Extractor, settings: EmbedSettings) -> Embedder:
    weights = row_weights(colors, views, WHITE, mask_power=settings.mask_power, even_out=settings.even_out)
    return Embedder(
        colors, views, CodeBits(extractor, torch.from_numpy(KEY.projection(BITS)), lambda _: signs()),
        budget=10 ** (-PSNR / 10), worst_budget=10 ** (-WORST / 10), settings=settings, background=WHITE,
        weights=weights, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def marked(views: list[SceneView], extractor: Extractor) -> tuple[SectorColors, Embedder]:
    residual = no_colors()
    made = embedder(residual, views, extractor, EmbedSettings(steps=300, strength=0.3))
    made.run(SilentProgress())
    return residual, made


def pictures(views: list[SceneView], residual: SectorColors | None = None) -> list[np.ndarray]:
    shown = [view.unmarked(WHITE) + (view.difference(residual) if residual else 0) for view in views]
    return [(picture.clamp(0, 1) * 255).round().byte().numpy() for picture in shown]


def agreement(extractor: Extractor, shown: list[np.ndarray], key: Key = KEY) -> np.ndarray:
    """Which bits are right, of all pictures together."""
    feature = read_features(extractor, shown).mean(0)
    return (key.projection(BITS).astype(np.float64) @ feature > 0) == (signs().numpy() > 0)


def test_four_unseen_views_give_the_message_exactly(marked, unseen, extractor: Extractor) -> None:
    assert agreement(extractor, pictures(unseen, marked[0])).all()


def test_the_unmarked_scene_and_wrong_keys_do_not(marked, unseen, extractor: Extractor) -> None:
    assert not agreement(extractor, pictures(unseen)).all()
    wrong = [agreement(extractor, pictures(unseen, marked[0]), Key(f"wrong {i}")).mean() for i in range(40)]
    assert np.mean(wrong) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(40 * BITS))


def test_the_budget_holds_for_the_mean_and_for_each_view(marked, views) -> None:
    errors = [float(view.difference(marked[0]).square().mean()) for view in views]
    assert sum(errors) / len(errors) <= 10 ** (-PSNR / 10) * 1.001
    assert max(errors) <= 10 ** (-WORST / 10) * 1.001
    assert sum(errors) / len(errors) > 10 ** (-(PSNR + 3) / 10), "the budget is used"


def test_the_same_seed_gives_the_same_mark(views, extractor: Extractor) -> None:
    tables = []
    for _ in range(2):
        residual = no_colors()
        embedder(residual, views, extractor, EmbedSettings(steps=3)).run(SilentProgress())
        tables.append(residual.table.detach().clone())
    assert torch.equal(*tables) and float(tables[0].abs().max()) > 0


def test_pulling_back_is_the_gradient_of_the_difference(views) -> None:
    view, residual = views[0], no_colors()
    weights = torch.randn(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    view.pull_back(residual, weights)
    gradient = residual.table.grad.clone()
    step = torch.randn(residual.table.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        residual.table.copy_(step)
    change = float((view.difference(residual) * weights).sum())  # linear, and zero at zero
    assert change == pytest.approx(float((gradient * step).sum()), rel=1e-3)


def test_the_mask_scales_the_movement_and_not_only_the_gradient(views, extractor: Extractor) -> None:
    """Against an optimiser that normalises: a factor on gradients would cancel there, one on updates does not."""
    moved = {}
    for power in (0.0, 4.0):
        residual = no_colors()
        made = embedder(residual, views, extractor, EmbedSettings(steps=1000, views_per_step=1, mask_power=power))
        made.take_step()
        moved[power] = residual.table.detach().norm(dim=1), made.weights.mask
    (free, open_mask), (masked, mask) = moved[0.0], moved[4.0]
    rows = (open_mask > 0) & (free > 0)
    ratio = masked[rows] / free[rows]
    expected = mask[rows]
    scale = float((ratio * expected).sum() / (expected * expected).sum())
    assert torch.allclose(ratio, scale * expected, rtol=0.02, atol=1e-4 * scale)
    assert float(expected.max() / expected.min()) > 5


def test_masks_spare_plain_places_and_leave_unseen_ones(views) -> None:
    colors = no_colors()
    weights = row_weights(colors, views[:1], WHITE, mask_power=1.0, even_out=0.5)
    x, d, alpha = views[0].points()
    visits = colors.visits(x, d, alpha[:, None])[:, 0]
    assert float(weights.mask.max()) == 1.0 and torch.equal(weights.mask > 0, visits > 0)
    order = visits[visits > 0].argsort()
    assert bool((weights.evenness[visits > 0][order].diff() <= 1e-6).all()), "the rarer, the larger"
    nothing = row_weights(colors, [], WHITE, mask_power=1.0, even_out=0.5)
    assert float(nothing.mask.max()) == 0.0
    table = torch.zeros(2, 3)
    apply_update(table, torch.arange(2), torch.ones(2, 3), torch.tensor([0.0, 0.5]))
    assert table.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]


def test_touching_up_mends_what_a_residual_can_mend(views) -> None:
    """The photo is the render with one more residual on it: most of that comes back."""
    truth = empty_residual()
    with torch.no_grad():
        truth.table.normal_(0, 0.02, generator=torch.Generator().manual_seed(3))
    errors = [view.difference(truth) for view in views]
    fitted = empty_residual()
    touch_up(fitted, views, errors, torch.Generator().manual_seed(0), SilentProgress(), passes=8)
    left = sum(float((e - v.difference(fitted)).square().sum()) for e, v in zip(errors, views, strict=True))
    assert left < 0.35 * sum(float(e.square().sum()) for e in errors)


def test_views_keep_what_the_method_renders(views) -> None:
    outputs = Ball().render_rays(cameras()[0].rays())
    expected = (outputs.rgb + (1 - outputs.alpha[:, None]) * WHITE).reshape(SIZE, SIZE, 3)
    assert torch.allclose(views[0].unmarked(WHITE), expected, atol=2e-3)
    x, d, alpha = views[0].points()
    assert torch.allclose(x.norm(dim=1), torch.full((len(x),), RADIUS), atol=1e-3)
    assert torch.allclose(d.norm(dim=1), torch.ones(len(x)), atol=1e-5) and bool((alpha == 1).all())


def test_cameras_between_stay_cameras(views) -> None:
    made = cameras_between(cameras(), 30, torch.Generator().manual_seed(2))
    for camera in made:
        rotation = camera.c2w[:, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-9)
        assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    single = cameras_between(cameras().select((3,)), 2, torch.Generator().manual_seed(2))
    assert torch.allclose(single[0].c2w[:, 3], cameras()[3].c2w[:, 3])


def test_cameras_that_fill_leave_smaller_holes_than_chance() -> None:
    photos = cameras().select((0, 9, 18, 27, 36, 45))
    seen = [render_view(Ball(), camera) for camera in photos]  # type: ignore[arg-type]
    probes, drawn = (
        cameras_between(photos, count, torch.Generator().manual_seed(seed)) for count, seed in ((200, 9), (50, 3))
    )
    filled = cameras_that_fill(seen, 50, torch.Generator().manual_seed(3))
    sides, by_chance, by_plan = (functional.normalize(c.c2w[:, :, 3], dim=1) for c in (probes, drawn, filled))
    assert len(filled) == 50
    assert torch.cdist(sides, by_plan).amin(1).max() < 0.8 * torch.cdist(sides, by_chance).amin(1).max()


def test_sizes(views) -> None:
    camera = Camera.perspective(800, 600, 40.0, cameras()[0].c2w)
    assert (fit_size(camera, 400).width, fit_size(camera, 400).height) == (400, 300)
    assert fit_size(camera, 1000).width == 800
    expected = 0.7 * 1.3 * math.tan(math.radians(20)) * 2 / SIZE
    assert pixel_size(views) == pytest.approx(expected, rel=0.35)


def test_plain_scenes_are_refused_after_a_third_of_the_steps(views, extractor: Extractor) -> None:
    projection = torch.from_numpy(KEY.projection(BITS))
    CodeBits(extractor, projection, lambda _: signs(), needed=48).check(0.9)
    with pytest.raises(UserError, match=r"too plain .* 4 pictures of it will carry about 0 bits, 48 are needed"):
        CodeBits(extractor, projection, lambda _: signs(), needed=48).check(0.5)
    made = embedder(no_colors(), views, extractor, EmbedSettings(steps=3))
    made.objective = CodeBits(extractor, projection, lambda _: signs(), needed=1000)
    with pytest.raises(UserError, match="too plain"):
        made.run(SilentProgress())
    assert made.step == 1


def test_capacity_is_that_of_the_binary_symmetric_channel() -> None:
    assert capacity(127, 1.0) == 127 and capacity(127, 0.5) == capacity(127, 0.3) == 0
    assert capacity(100, 0.89) == pytest.approx(50, abs=0.2)  # H(0.11) is a half


@pytest.mark.parametrize("radians", [0.0, 0.05])
def test_looking_from_beside_turns_directions_and_nothing_else(views, radians: float) -> None:
    generator = torch.Generator().manual_seed(0)
    angles = []
    for _ in range(30):
        x, d, alpha = views[3].from_beside(radians, generator).points()
        x_0, d_0, alpha_0 = views[3].points()
        assert torch.equal(x, x_0) and torch.equal(alpha, alpha_0)
        assert torch.allclose(d @ d[0], d_0 @ d_0[0], atol=1e-5), "a rotation keeps all angles"
        angles.append(float((d[0] - d_0[0]).norm()))
    expected = radians * math.sqrt(2)  # the part of the rotation about the direction itself moves nothing
    assert np.sqrt(np.mean(np.square(angles))) == pytest.approx(expected, rel=0.3, abs=1e-6)
