"""Laws of the encodings, the box test and the layouts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nerfstudio_ext import kernels
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.kernels import GridLayout

from .cases import device_of, grid_layout, runnable


def test_layout_numbers_of_the_paper() -> None:
    """16 levels from 16 to 2048 with 2^19 rows: 5 dense levels, 6.1 million rows, as in instant-ngp."""
    layout = GridLayout(16, 2, 19, 16, 2048)
    assert layout.resolutions[0] == 16 and layout.resolutions[-1] == 2048
    assert sum(layout.is_dense) == 5 and layout.is_dense == tuple(sorted(layout.is_dense, reverse=True))
    assert layout.n_rows == layout.offsets[-1] and len(layout.offsets) == 17
    assert all(offset % 8 == 0 for offset in layout.offsets)
    assert 6.0e6 < layout.n_rows < 6.2e6


@pytest.mark.parametrize("finest", [16, 17, 100, 512, 1000, 1024, 2048, 4096, 8192])
def test_finest_level_has_the_resolution_asked_for(finest: int) -> None:
    assert GridLayout(12, 2, 14, 16, finest).resolutions[-1] == finest


@pytest.mark.parametrize("wrong", [(0, 2, 14, 16, 32), (4, 0, 14, 16, 32), (4, 2, 2, 16, 32), (4, 2, 40, 16, 32),
                                   (4, 2, 14, 1, 32), (4, 2, 14, 64, 32), (1, 2, 14, 16, 32)], ids=str)  # fmt: skip
def test_layouts_that_make_no_sense_are_refused(wrong: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(UserError):
        GridLayout(*wrong)


@pytest.mark.parametrize("n_features", [1, 2, 4])
@pytest.mark.parametrize("backend", runnable("hash_encode"))
def test_dense_levels_reproduce_linear_functions(backend: str, n_features: int) -> None:
    """A table that holds a linear function of the corner makes the encoding that function of the position."""
    layout = GridLayout(2, n_features, 16, 8, 16)
    assert all(layout.is_dense)
    slopes = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.25, -0.125], [0.0, 1.0, 0.0], [-0.5, 0.5, 2.0]])[:n_features]
    table = torch.zeros(layout.n_rows, n_features)
    for level, resolution in enumerate(layout.resolutions):
        side = torch.arange(resolution + 1.0)
        z, y, x = torch.meshgrid(side, side, side, indexing="ij")
        corners = torch.stack([x, y, z], -1).reshape(-1, 3)
        table[layout.offsets[level] : layout.offsets[level] + len(corners)] = corners @ slopes.T
    x_unit = torch.rand(257, 3, generator=torch.Generator().manual_seed(0))
    device = device_of("hash_encode", backend)
    found = kernels.hash_encode(x_unit.to(device), table.to(device), layout, backend=backend).cpu()
    expected = [(x_unit * scale + 0.5) @ slopes.T for scale in layout.scales]
    assert torch.allclose(found, torch.cat(expected, 1), atol=2e-5)


@pytest.mark.parametrize("backend", runnable("hash_encode"))
def test_hashed_corner_by_hand(backend: str) -> None:
    """On a corner only its own row counts; the row is the hash with 32-bit arithmetic."""
    layout = GridLayout(1, 2, 10, 64, 64)
    assert not layout.is_dense[0]
    corner = (37, 52, 61)
    product = [corner[0], corner[1] * 2654435761 % 2**32, corner[2] * 805459861 % 2**32]
    row = (product[0] ^ product[1] ^ product[2]) % 2**10
    table = torch.zeros(layout.n_rows, 2)
    table[row] = torch.tensor([3.0, -1.0])
    x_unit = (torch.tensor([corner]) - 0.5) / layout.scales[0]
    device = device_of("hash_encode", backend)
    found = kernels.hash_encode(x_unit.to(device), table.to(device), layout, backend=backend).cpu()
    assert torch.allclose(found, torch.tensor([[3.0, -1.0]]), atol=2e-4)


@pytest.mark.parametrize("backend", runnable("hash_encode"))
def test_gradient_of_the_table_sums_to_the_cotangents(backend: str) -> None:
    """The 8 weights of a position sum to 1, so each level of the table receives the sum of its cotangents."""
    layout = grid_layout()
    device = device_of("hash_encode", backend)
    generator = torch.Generator().manual_seed(1)
    table = torch.zeros(layout.n_rows, layout.n_features, device=device, requires_grad=True)
    x_unit = torch.rand(1000, 3, generator=generator).to(device)
    cotangents = torch.randn(1000, layout.n_outputs, generator=generator)
    (kernels.hash_encode(x_unit, table, layout, backend=backend) * cotangents.to(device)).sum().backward()
    assert table.grad is not None
    for level in range(layout.n_levels):
        found = table.grad[layout.offsets[level] : layout.offsets[level + 1]].sum(0).cpu()
        expected = cotangents[:, level * layout.n_features : (level + 1) * layout.n_features].sum(0)
        assert torch.allclose(found, expected, atol=2e-3)


def test_hash_encode_gradients_match_finite_differences() -> None:
    layout = GridLayout(2, 2, 3, 2, 4)
    generator = torch.Generator().manual_seed(2)
    x_unit = torch.rand(3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    table = torch.randn(layout.n_rows, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, t: kernels.hash_encode(x, t, layout, backend="reference"), (x_unit, table)
    )


def test_spherical_harmonics_are_orthonormal() -> None:
    """Quadrature on the sphere, exact for polynomials of degree 6: Gauss-Legendre in z, equal angles around."""
    z, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    phi = torch.arange(16, dtype=torch.float64) * math.pi / 8
    radius = (1 - z * z).sqrt()
    x, y = (radius[:, None] * f(phi) for f in (torch.cos, torch.sin))
    d = torch.stack([x, y, z[:, None].expand_as(x)], -1).reshape(-1, 3)
    values = kernels.sh_encode(d, backend="reference")
    area = (weights[:, None] * math.pi / 8).expand(8, 16).reshape(-1)
    gram = values.T @ (area[:, None] * values)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("backend", runnable("sh_encode"))
def test_each_band_has_constant_length(backend: str) -> None:
    """Addition theorem: the squares of band l sum to (2 l + 1) / (4 pi) in every direction."""
    d = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(3)), dim=-1)
    values = kernels.sh_encode(d.to(device_of("sh_encode", backend)), backend=backend).cpu()
    for band in range(4):
        lengths = values[:, band**2 : (band + 1) ** 2].square().sum(1)
        assert torch.allclose(lengths, torch.full((100,), (2 * band + 1) / (4 * math.pi)), atol=1e-5)


@pytest.mark.parametrize("widths", [(5, 7), (3, 16, 1), (17, 33, 9, 2), (32, 64, 16), (31, 64, 64, 3)], ids=str)
@pytest.mark.parametrize("backend", runnable("mlp"))
def test_mlp_of_any_width_equals_matrix_products(backend: str, widths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    weights = tuple(torch.randn(shape, generator=generator) / shape[0] ** 0.5 for shape in shapes)
    x = torch.randn(130, widths[0], generator=generator)
    hidden = x.double()
    for weight in weights[:-1]:
        hidden = (hidden @ weight.double()).clamp_min(0)
    device = device_of("mlp", backend)
    found = kernels.mlp(x.to(device), tuple(weight.to(device) for weight in weights), backend=backend).cpu()
    assert torch.allclose(found.double(), hidden @ weights[-1].double(), atol=1e-5)


@pytest.mark.parametrize("backend", runnable("ray_aabb"))
def test_box_from_all_sides(backend: str) -> None:
    inf = math.inf
    rows = [  # origin, direction, entry, exit
        ([-3, 0, 0], [1, 0, 0], 2, 4),  # hit along an axis, two components zero
        ([0, 0, 0], [0, 0, 1], 0, 1),  # from inside
        ([3, 0, 0], [1, 0, 0], inf, -inf),  # behind
        ([-3, 2, 0], [1, 0, 0], inf, -inf),  # parallel, outside
        ([-3, 1, 0], [1, 0, 0], 2, 4),  # in the plane of a face
        ([-3, -1, 1], [1, 0, -0.0], 2, 4),  # along an edge, negative zero
        ([-2, -2, -2], [1, 1, 1], 1, 3),  # through two corners, not of unit length
        ([-2, 0, 0], [0.5, 0, 0], 2, 6),
        ([0, -2.5, 0], [1, 1, 0], inf, -inf),  # passes beside
    ]
    device = device_of("ray_aabb", backend)
    rays_o, rays_d = (torch.tensor([row[k] for row in rows], dtype=torch.float32) for k in (0, 1))
    aabb = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
    t_min, t_max = kernels.ray_aabb(rays_o.to(device), rays_d.to(device), aabb.to(device), backend=backend)
    assert t_min.tolist() == [row[2] for row in rows]
    assert t_max.tolist() == [row[3] for row in rows]


@pytest.mark.parametrize("backend", runnable("ray_aabb"))
def test_a_ray_that_touches_the_box_sees_nothing(backend: str) -> None:
    device = device_of("ray_aabb", backend)
    rays_o, rays_d = torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])  # only the edge x = -1, y = 1
    aabb = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
    t_min, t_max = kernels.ray_aabb(rays_o.to(device), rays_d.to(device), aabb.to(device), backend=backend)
    assert float(t_min) >= float(t_max)


@pytest.mark.parametrize(("n_cascades", "grid_size"), [(1, 4), (3, 8), (2, 12), (1, 32)])
def test_bits_survive_packing(n_cascades: int, grid_size: int) -> None:
    occupied = torch.rand(n_cascades, *[grid_size] * 3, generator=torch.Generator().manual_seed(0)) < 0.5
    words = kernels.pack_bits(occupied)
    assert words.dtype == torch.int64 and words.shape == (n_cascades, (grid_size // 4) ** 3)
    assert torch.equal(kernels.unpack_bits(words, grid_size), occupied)


def test_one_bit_is_where_the_layout_says() -> None:
    occupied = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    occupied[1, 6, 3, 5] = True  # z, y, x: block (x 1, y 0, z 1), cell (1, 3, 2) within it
    words = kernels.pack_bits(occupied)
    expected = torch.zeros(2, 8, dtype=torch.int64)
    expected[1, (1 * 2 + 0) * 2 + 1] = 1 << (2 * 16 + 3 * 4 + 1)
    assert torch.equal(words, expected)
    assert int(kernels.pack_bits(torch.ones(1, 4, 4, 4, dtype=torch.bool))) == -1


def test_set_bits_are_counted() -> None:
    occupied = torch.rand(2, 16, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    assert kernels.count_bits(kernels.pack_bits(occupied)) == int(occupied.sum())
    assert kernels.count_bits(torch.tensor([-1, 0, -(2**63)])) == 65


@pytest.mark.parametrize("backend", runnable("occ_select"))
def test_ranks_name_each_occupied_cell_once(backend: str) -> None:
    occupied = torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(2)) < 0.3
    words = kernels.pack_bits(occupied).to(device_of("occ_select", backend))
    ranks = torch.arange(kernels.count_bits(words), device=words.device)
    cells = kernels.occ_select(words, 8, ranks, backend=backend).cpu()
    assert torch.equal(cells.sort().values, occupied.flatten().nonzero()[:, 0])


def test_bits_of_a_grid_that_does_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="6 cells per axis"):
        kernels.pack_bits(torch.zeros(1, 6, 6, 6, dtype=torch.bool))
