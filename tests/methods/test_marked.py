"""A colour residual over a trained method: geometry untouched, linear, saved and loaded like any run."""

from __future__ import annotations

import pytest
import torch

from nerfstudio_ext import methods
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.color_residual import ColorResidual
from nerfstudio_ext.methods.marked import Marked, MarkedConfig, add_residual
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.rays import RayOutputs, Rays

from .ball_scene import make_meta

BASE = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32)
CONFIG = MarkedConfig(methods.config_to_json(BASE), bands=2, log2_table=12, base_resolution=8, finest_resolution=16)


def marked(seed: int = 0) -> Marked:
    built = methods.build(CONFIG, make_meta(), seed=seed)
    assert isinstance(built, Marked)
    return built


def randomised(method: Marked) -> Marked:
    with torch.no_grad():
        method.residual.table.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
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
    assert {p.data_ptr() for p in method.parameters()} >= {method.residual.table.data_ptr()}


def test_it_refuses_training():
    with pytest.raises(UserError, match="not trained further"):
        marked().train_step(None, None, 0)  # type: ignore[arg-type]


def test_rays_that_see_nothing_stay_as_they_are_and_others_by_their_opacity():
    residual = ColorResidual.over(1.0, bands=1, n_levels=1, log2_table=12, base_resolution=8, finest_resolution=8)
    with torch.no_grad():
        residual.table.fill_(0.2)
    rays = Rays(torch.zeros(3, 3), torch.eye(3), torch.zeros(3), torch.ones(3))
    alpha = torch.tensor([0.0, 0.5, 1.0])
    out = add_residual(residual, rays, RayOutputs(torch.zeros(3, 3), 0.2 * alpha, alpha))
    assert torch.allclose(out.rgb, 0.2 * alpha[:, None].expand(3, 3), atol=1e-6)
    opaque = add_residual(residual, rays, RayOutputs(torch.zeros(3, 3), torch.full((3,), 0.2), None))
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


def test_visits_are_the_gradient_of_a_constant():
    """Each point's amount is dealt out once per level, whatever the interpolation."""
    residual = ColorResidual.over(1.0, bands=1, n_levels=2, log2_table=12, base_resolution=4, finest_resolution=8)
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    amounts = torch.arange(40.0)
    visits = residual.visits(x, amounts)
    assert visits.shape == (residual.layout.n_rows,) and float(visits.min()) >= 0
    assert float(visits.sum()) == pytest.approx(2 * float(amounts.sum()), rel=1e-4)
