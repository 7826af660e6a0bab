"""What is rendered for a look, and how it becomes pixels: comparison, cuts, backgrounds, scales, photos."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nerfstudio_ext.camera_paths import CropBox
from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.colormaps import COLORMAPS
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.renderer import RayRenderer
from nerfstudio_ext.viewer.looks import MAIN, Compare, Crop, Look, Photo, Pose, Scale, Side, Slice
from nerfstudio_ext.viewer.moved import moved
from nerfstudio_ext.viewer.pictures import GROUND_COLOUR, to_8bit, to_rgb8
from nerfstudio_ext.viewer.shading import Ranges, exposed, shade
from nerfstudio_ext.viewer.shots import crop_box, take
from nerfstudio_ext.viewer.views import View
from tests.viewer.fakes import SphereRenderer, look_from, shade_spheres

WXYZ = (-0.2706, 0.6533, 0.6533, -0.2706)


def bounded(rays: Rays, tint: float = 1.0) -> RayOutputs:
    """The spheres where they lie within the rays' intervals."""
    seen = shade_spheres(rays, tint)
    inside = ((seen.depth >= rays.t_min) & (seen.depth <= rays.t_max)).float()
    return RayOutputs(seen.rgb * inside[:, None], seen.depth * inside, seen.alpha * inside)


def layered(tint: float = 1.0) -> RayRenderer:
    """The spheres with a layer that counts ten per ray that hits."""
    return RayRenderer(
        lambda rays: bounded(rays, tint), (0.08, 0.08, 0.1), 2048,
        layers={"cost": lambda rays: 10 * shade_spheres(rays).alpha},
    )  # fmt: skip


SOURCES = {MAIN: layered(), "dim": layered(0.5)}


def view(look: Look | None = None, width: int = 96, height: int = 60) -> View:
    from viser.transforms import SO3

    wxyz = tuple(SO3.from_matrix(look_from((2.6, 0.0, 1.1))[:, :3].numpy()).wxyz.tolist())
    return View((2.6, 0.0, 1.1), wxyz, 0.9, width, height, look or Look())


def pixels(look: Look | None = None, **options: object) -> np.ndarray:
    seen = view(look, **options)
    return shade(take(SOURCES, seen, 96), seen.look, Ranges.empty())


def test_a_plain_look_is_the_renderers_own_picture() -> None:
    """One renderer for the page and for exports: equal to the last bit before any encoding."""
    camera = view().camera(96)
    assert np.array_equal(pixels(), to_rgb8(SOURCES[MAIN].render(camera)))


@pytest.mark.parametrize(("wipe", "column"), [(0.25, 24), (0.0, 0), (1.0, 96), (0.5, 48)])
@pytest.mark.parametrize("other", [Side("dim"), Side(output="depth"), Side("dim", "alpha"), Side(output="cost")])
def test_a_wipe_is_both_pictures(wipe: float, column: int, other: Side) -> None:
    first, second = pixels(), pixels(Look(side=other))
    both = pixels(Look(compare=Compare("wipe", other, wipe)))
    assert both.shape == first.shape
    difference = both[:, :column].astype(int) - first[:, :column]
    assert column == 0 or np.abs(difference).max() <= 1
    off = np.abs(both[:, column:].astype(int) - second[:, column:])
    assert column == 96 or other.output == "depth" or off.max() <= 1
    assert column == 96 or other.output != "depth" or np.median(off) <= 12  # the scale fits the half that is shown


def test_a_difference_is_amplified_around_grey() -> None:
    seen = Look(compare=Compare("difference", Side("dim"), gain=2.0))
    camera = view().camera(96)
    a, b = SOURCES[MAIN].render(camera).rgb, SOURCES["dim"].render(camera).rgb
    assert np.array_equal(pixels(seen), to_8bit((0.5 + 2 * (a - b)).clamp(0, 1)))
    same = pixels(Look(compare=Compare("difference", Side(), gain=40.0)))
    assert (same == 128).all()


def test_a_run_that_is_gone_and_a_layer_that_is_missing_fall_back() -> None:
    assert np.array_equal(pixels(Look(side=Side("gone"))), pixels())
    assert np.array_equal(pixels(Look(side=Side(output="no such layer"))), pixels())


def test_a_crop_leaves_the_box_only() -> None:
    whole = SOURCES[MAIN].render(view().camera(96))
    crop = Crop((0.0, 0.0, 0.0), (1.1, 1.1, 0.9))
    look = Look(crop=crop, side=Side(output="alpha"))
    alpha = pixels(look)[:, :, 0]
    expected = SOURCES[MAIN].cropped(crop_box(crop, (0.08, 0.08, 0.1))).render(view().camera(96)).alpha
    assert expected is not None and np.array_equal(alpha, to_8bit(expected[..., None])[..., 0])
    assert 0 < (alpha > 0).sum() < (whole.alpha > 0).sum()


@pytest.mark.parametrize("axis", ["view", "x", "z"])
def test_a_slice_shows_what_lies_in_the_slab(axis) -> None:
    cut = Slice(axis, 2.6 if axis == "view" else 0.0, 0.4)
    seen = view(Look(slice=cut))
    shot = take(SOURCES, seen, 96)
    camera, frame = shot.left.camera, shot.left.frame
    rays = camera.rays()
    hit = frame.depth.flatten().isfinite()
    places = rays.rays_o[hit] + frame.depth.flatten()[hit, None] * rays.rays_d[hit]
    normal = camera.c2w[:, 2].float() if axis == "view" else torch.eye(3)["xyz".index(axis)]
    offset = places @ normal - (camera.c2w[:, 3].float() @ normal if axis == "view" else 0.0)
    assert hit.any() and (offset - cut.position).abs().max() <= 0.2 + 1e-3


def test_backgrounds() -> None:
    empty = pixels(Look(side=Side(output="alpha")))[:, :, 0] == 0
    assert empty.any()
    for backdrop, colour in (("white", 255), ("black", 0)):
        assert (pixels(Look(backdrop=backdrop))[empty] == colour).all()
    own = pixels(Look(backdrop="colour", backdrop_colour=(0.2, 0.4, 0.6)))
    assert np.abs(own[empty].astype(int) - (51, 102, 153)).max() <= 1
    chequers = pixels(Look(backdrop="chequered"))
    assert len(np.unique(chequers[empty][:, 0])) == 2
    assert np.array_equal(chequers[~empty], pixels()[~empty])


def test_exposure_doubles_light_per_stop() -> None:
    rgb = torch.linspace(0, 1, 50)[:, None, None].expand(50, 1, 3)
    assert torch.allclose(exposed(rgb, 0.0), rgb, atol=1e-6)
    assert torch.allclose(exposed(exposed(rgb, -1.5), 1.5), rgb, atol=1e-5)
    linear = exposed(torch.full((1, 1, 3), 0.5), 1.0)
    assert abs(float(linear[0, 0, 0]) - 0.6858) < 1e-3, "sRGB 0.5 is 0.2140 of the light; 0.4281 is sRGB 0.6858"


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_scales_have_the_ends_they_are_given(colormap) -> None:
    scale = Scale(colormap, low=0.0, high=10.0)
    shown = pixels(Look(side=Side(output="cost"), scale=scale))
    inverted = pixels(Look(side=Side(output="cost"), scale=dataclasses.replace(scale, is_inverted=True)))
    hit = pixels(Look(side=Side(output="alpha")))[:, :, 0] > 0
    ends = np.unique(shown.reshape(-1, 3), axis=0)
    assert len(ends) == 2 and np.array_equal(np.unique(inverted.reshape(-1, 3), axis=0), ends)
    assert np.array_equal(shown[hit][0], inverted[~hit][0]) and np.array_equal(shown[~hit][0], inverted[hit][0])


def test_normals_face_the_camera() -> None:
    seen = view(Look(side=Side(output="normals")))
    part = take(SOURCES, seen, 96).left
    rays = part.camera.rays()
    facing = (part.values.reshape(-1, 3) * rays.rays_d).sum(1)
    assert (facing <= 1e-5).all() and (facing < -0.5).any()


def test_a_fixed_camera_is_shown_whole_with_bars() -> None:
    camera = Camera.perspective(60, 60, 40.0, look_from((2.6, 0.0, 1.1)))
    shown = pixels(Look(pose=Pose(camera)))
    assert shown.shape == (60, 96, 3)
    assert (shown[:, :18] == GROUND_COLOUR).all() and (shown[:, 78:] == GROUND_COLOUR).all()
    assert np.array_equal(shown[:, 18:78], to_rgb8(SOURCES[MAIN].render(camera)))


def test_a_photo_lies_over_its_own_camera() -> None:
    camera = Camera.perspective(96, 60, 40.0, look_from((2.6, 0.0, 1.1)))
    photo = to_rgb8(SOURCES[MAIN].render(camera))
    for mode, expected in (("photo", photo), ("error", np.zeros_like(photo)), ("render", photo)):
        look = Look(pose=Pose(camera), photo=Photo(0, mode))
        seen = view(look)
        shown = shade(take(SOURCES, seen, 96), look, Ranges.empty(), photos=[photo])
        assert np.abs(shown.astype(int) - expected).max() <= 6, mode  # half an 8-bit step of error is seen on the scale
    ranges = Ranges.empty()
    look = Look(pose=Pose(camera), photo=Photo(0, "error"))
    off = np.clip(photo.astype(int) + 5, 0, 255).astype(np.uint8)
    shade(take(SOURCES, view(look), 96), look, ranges, photos=[off])
    error = float(np.square((off.astype(float) - photo) / 255).mean())
    assert ranges.photo_psnr == pytest.approx(-10 * np.log10(error), abs=0.5)
    half = Look(pose=Pose(camera), photo=Photo(0, "photo", 0.5))
    mixed = shade(take(SOURCES, view(half), 96), half, Ranges.empty(), photos=[255 - photo])
    assert np.abs(mixed.astype(int) - 127.5).max() <= 1.5


def test_another_run_is_seen_in_the_frame_of_this_one() -> None:
    """The same world, scaled, turned and shifted: pictures are equal, distances in units of the first."""
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)

    @dataclasses.dataclass
    class Frame:
        rotation: torch.Tensor
        translation: torch.Tensor
        scale: float

    own = Frame(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)
    other = Frame(turn, torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64), 2.0)

    def render_other(rays: Rays):
        origins = (rays.rays_o.double() - other.translation) @ turn / 2
        back = Rays(origins.float(), (rays.rays_d.double() @ turn).float(), rays.t_min / 2, rays.t_max / 2)
        seen = bounded(back)
        return dataclasses.replace(seen, depth=2 * seen.depth)

    renderer = moved(RayRenderer(render_other, (0.08, 0.08, 0.1)), own, other)
    camera = view().camera(96)
    expected = SphereRenderer().render(camera)
    frame = renderer.render(camera)
    assert (frame.rgb - expected.rgb).abs().median() < 1e-4 and (frame.rgb - expected.rgb).abs().mean() < 5e-3
    seen = expected.depth.isfinite() & frame.depth.isfinite()
    assert (frame.depth[seen] - expected.depth[seen]).abs().median() < 1e-4
    box = CropBox(torch.zeros(3).double(), torch.ones(3).double(), torch.eye(3).double())
    cropped = renderer.cropped(box).render(camera)
    assert 0 < (cropped.alpha > 0).sum() < (expected.alpha > 0).sum()
    assert moved(SOURCES[MAIN], own, own) is SOURCES[MAIN]


def test_a_moving_camera_gets_the_draft_with_the_same_cuts_and_ground() -> None:
    """A standing one never does: what stays on the page is what exports show."""
    sources = {
        MAIN: RayRenderer(bounded, (0.08, 0.08, 0.1), draft=lambda rays: bounded(rays, 0.5)),
        "dim": layered(0.5),
    }
    for look in (Look(), Look(backdrop="white"), Look(crop=Crop(center=(0.0, 0.0, 0.0), size=(1.0, 1.0, 1.0)))):
        seen = view(look)
        moving = take(sources, seen, 96, is_moving=True).left.frame
        drafted = take(sources, view(dataclasses.replace(look, side=Side("dim"))), 96, is_moving=True).left.frame
        assert torch.equal(moving.rgb, drafted.rgb)
        assert not torch.equal(take(sources, seen, 96).left.frame.rgb, moving.rgb)
        assert torch.equal(take(sources, seen, 96).left.frame.depth, moving.depth)
