"""A colour residual over a trained method: geometry untouched, linear, saved and loaded like any run."""

from __future__ import annotations

import pytest
import torch

from nerfstudio_ext import methods
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.color_residual import ColorResidual
from nerfstudio_ext.fields.sector_colors import SectorColors
from nerfstudio_ext.kernels import SectorLayout
from nerfstudio_ext.methods.marked import Marked, MarkedConfig, add_colors
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.rays import RayOutputs, Rays

from .ball_scene import make_meta

BASE = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32)
CONFIG = MarkedConfig(methods.config_to_json(BASE), bands=2, log2_table=12, base_resolution=8, finest_resolution=16,
                      sectors=12, mark_resolution=16)  # fmt: skip


def marked(seed: int = 0) -> Marked:
    built = methods.build(CONFIG, make_meta(), seed=seed)
    assert isinstance(built, Marked)
    return built


def randomised(method: Marked) -> Marked:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for table in method.correction.parameters():
            table.normal_(0, 0.1, generator=generator)
    return method


def test_an_empty_residual_changes_nothing_and_another_only_colours():
    method = marked()
    rays = make_meta().training_cameras()[3].rays()
    plain, same = method.base.render_rays(rays), method.render_rays(rays)
    assert torch.equal(plain.rgb, same.rgb)
    changed = randomised(method).render_rays(rays)
    assert torch.equal(plain.depth, changed.depth) and torch.equal(plain.alpha, changed.alpha)
    assert not torch.equal(plain.rgb, changed.rgb)


def test_it_survives_its_state_and_its_config():
    method, rays = randomised(marked()), make_meta().training_cameras()[3].rays()
    assert methods.config_from_json(methods.config_to_json(CONFIG)) == CONFIG
    twin = marked(seed=5)
    twin.load_state_dict({name: tensor.clone() for name, tensor in method.state_dict().items()})
    for render in (twin.render_rays, method.snapshot()):
        assert torch.equal(method.render_rays(rays).rgb, render(rays).rgb)
    assert {p.data_ptr() for p in method.parameters()} >= {p.data_ptr() for p in method.correction.parameters()}


def test_it_refuses_training():
    with pytest.raises(UserError, match="not trained further"):
        marked().train_step(None, None, 0)  # type: ignore[arg-type]


def test_rays_that_see_nothing_stay_as_they_are_and_others_by_their_opacity():
    residual = ColorResidual.over(1.0, bands=1, n_levels=1, log2_table=12, base_resolution=8, finest_resolution=8)
    with torch.no_grad():
        residual.table.fill_(0.2)
    rays = Rays(torch.zeros(3, 3), torch.eye(3), torch.zeros(3), torch.ones(3))
    alpha = torch.tensor([0.0, 0.5, 1.0])
    out = add_colors(residual, rays, RayOutputs(torch.zeros(3, 3), 0.2 * alpha, alpha))
    assert torch.allclose(out.rgb, 0.2 * alpha[:, None].expand(3, 3), atol=1e-6)
    opaque = add_colors(residual, rays, RayOutputs(torch.zeros(3, 3), torch.full((3,), 0.2), None))
    assert torch.allclose(opaque.rgb, torch.full((3, 3), 0.2), atol=1e-6)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_the_residual_is_linear_and_depends_on_direction_from_two_bands_on(bands: int):
    residual = ColorResidual.over(2.0, bands=bands, n_levels=2, log2_table=12, base_resolution=4, finest_resolution=8)
    generator = torch.Generator().manual_seed(bands)
    x = 2 * torch.rand(50, 3, generator=generator) - 1
    d = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=1)
    with torch.no_grad():
        first = torch.randn(residual.table.shape, generator=generator)
        residual.table.copy_(first)
        once, back = residual(x, d), residual(x, -d)
        residual.table.copy_(-2 * first)
        assert torch.allclose(residual(x, d), -2 * once, atol=1e-5)
    assert torch.allclose(once, back) == (bands == 1)


def sector_colors(sectors: int = 40) -> SectorColors:
    return SectorColors(SectorLayout(sectors, 16), 2.0)


def test_sector_colors_are_linear_and_have_a_texture_for_each_side():
    colors, generator = sector_colors(), torch.Generator().manual_seed(0)
    x = 2 * torch.rand(50, 3, generator=generator) - 1
    d = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=1)
    with torch.no_grad():
        first = torch.randn(colors.table.shape, generator=generator)
        colors.table.copy_(first)
        once, back = colors(x, d), colors(x, -d)
        colors.table.copy_(-2 * first)
        assert torch.allclose(colors(x, d), -2 * once, atol=1e-5)
    correlation = float((once * back).mean() / (once.square().mean() * back.square().mean()).sqrt())
    assert abs(correlation) < 0.35, "from behind, another texture"
    assert float(colors.empty().table.abs().max()) == 0 and colors.empty().layout == colors.layout


def test_sector_colors_are_continuous_in_direction():
    colors, generator = sector_colors(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        colors.table.normal_(generator=generator)
        angle = torch.linspace(0, 6.28, 20_000)
        d = torch.stack([angle.cos(), 0.6 * angle.sin(), 0.8 * angle.sin()], 1)
        seen = colors(torch.full((len(d), 3), 0.3), d)
        steps = seen.diff(dim=0).abs().amax(1)
    assert float(seen.std()) > 0.2 and float(steps.max()) < 0.02, "a jump would be as large as the colours"


def test_visits_are_dealt_to_the_rows_that_decide():
    """The gradient of a sum: moving the rows by their visits moves the sum by the squares of the visits."""
    colors, generator = sector_colors(), torch.Generator().manual_seed(2)
    x = 2 * torch.rand(40, 3, generator=generator) - 1
    d = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=1)
    amounts = torch.rand(40, 2, generator=generator)
    visits = colors.visits(x, d, amounts)
    assert visits.shape == (colors.layout.n_rows, 2) and float(visits.min()) >= 0
    with torch.no_grad():
        colors.table.copy_(visits[:, :1].expand(-1, 3))
        moved = float((colors(x, d)[:, 0] * amounts[:, 0]).sum())
    assert moved == pytest.approx(float(visits[:, 0].square().sum()), rel=1e-4)
    assert colors.visits(x[:0], d[:0], amounts[:0]).abs().max() == 0
