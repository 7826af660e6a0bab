"""Drawn things: pictures agree with their volume, the rule holds, and controls break what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nerfstudio_ext.scenes.prepared import camera_around
from nerfstudio_ext.worlds.lift_trials import filled, hue_error_deg, mean_hue, photo_of, psnr_on_white
from nerfstudio_ext.worlds.picture_sets import AZIMUTHS, make_set, shuffled
from nerfstudio_ext.worlds.thing_tracing import BOX, CONE, CYLINDER, ELLIPSOID, RING, ROOF, thing_distances
from nerfstudio_ext.worlds.things import (
    CLASSES,
    HELD_OUT_HUES_DEG,
    draw_thing,
    is_inside,
    photograph,
)


def thing(name: str, number: int = 0, **options):
    return draw_thing(np.random.default_rng((number, 5)), name, **options)


@pytest.mark.parametrize("name", CLASSES)
def test_pictures_show_the_surface_of_the_volume(name):
    one = thing(name)
    rgba, depth = photograph(one, 70.0, 20.0, 24, rays_per_side=1)
    rays = camera_around(70.0, 20.0, 1.8, 40.0, 24).rays()
    hit = torch.from_numpy(np.isfinite(depth).ravel())
    assert 20 < int(hit.sum()) < 24 * 24 / 2
    assert np.array_equal(rgba[..., 3] > 0, np.isfinite(depth))
    points = rays.rays_o + torch.from_numpy(depth.ravel()).float()[:, None] * rays.rays_d
    assert np.abs(thing_distances(one.parts, points[hit].double().numpy())).max() < 1e-3
    steps = torch.linspace(0.8, 2.8, 60)
    missed = (rays.rays_o[~hit, None] + steps[:, None] * rays.rays_d[~hit, None]).flatten(0, 1)
    assert not bool(is_inside(one, missed).any())


@pytest.mark.parametrize("name", CLASSES)
def test_all_lies_in_the_cube(name):
    edge = torch.linspace(-0.5, 0.5, 25)
    faces = torch.cartesian_prod(torch.tensor([-0.5, 0.5]), edge, edge)
    shell = torch.cat([faces, faces.roll(1, 1), faces.roll(2, 1)])
    for number in range(20):
        assert not bool(is_inside(thing(name, number), shell).any())


@pytest.mark.parametrize("kind", [ELLIPSOID, BOX, CYLINDER, CONE, ROOF, RING])
def test_distances_never_overshoot(kind):
    """Sphere tracing is right only with bounds: no surface may be nearer than they say, for parts as they are drawn."""
    parts = np.array([[kind, 0.02, -0.05, 0.03, 0.3, 0.3 if kind != RING else 0.06, 0.2]])
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.6, 0.6, (300, 3))
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distances = thing_distances(parts, x)
    for share in (0.3, 0.6, 0.95):
        moved = thing_distances(parts, x + share * np.maximum(distances, 0)[:, None] * directions)
        assert (moved[distances > 0] > 0).all()


@pytest.mark.parametrize("name", ["ball", "box", "cylinder", "house", "mug"])
def test_the_back_has_another_hue_by_a_third_of_the_circle(name):
    one = thing(name, 3)
    front, back = (photograph(one, azimuth, 5.0, 32)[0] for azimuth in (0.0, 180.0))
    turned = np.degrees(np.angle(mean_hue(back) / mean_hue(front))) % 360
    assert 95 < turned < 145
    assert hue_error_deg(front, back) == pytest.approx(min(turned, 360 - turned), abs=0.1)


def test_the_photo_shows_one_hue_only():
    """Were the other hue visible from the front, lifting without a prior could know it."""
    for name in CLASSES:
        one = thing(name, 1)
        pixels = photograph(one, 0.0, 15.0, 32, rays_per_side=1)[0].reshape(-1, 4)
        seen = pixels[pixels[:, 3] > 0.5, :3] @ np.exp(2j * np.pi * np.arange(3) / 3)
        assert np.abs(np.degrees(np.angle(seen / seen.sum()))).max() < 10


def test_held_out_things_have_hues_that_others_never_have():
    for name in CLASSES:
        low = 45.0 * CLASSES.index(name)
        for number in range(30):
            for is_held_out in (False, True):
                hue = (thing(name, number, is_held_out=is_held_out).hue_deg - low) % 360
                assert (hue < HELD_OUT_HUES_DEG) == is_held_out


def test_shuffled_sets_keep_the_pictures_and_lose_the_azimuths():
    known = make_set(8, per_class=1)
    other = shuffled(known)
    assert torch.equal(known.photos, other.photos)
    for first in (0, AZIMUTHS):
        rings = [s.pictures[:, first : first + AZIMUTHS].flatten(2).double().sum(-1) for s in (known, other)]
        assert torch.equal(rings[0].sort(1).values, rings[1].sort(1).values)
        assert float((rings[0] != rings[1]).double().mean()) > 0.5


def test_the_measures_are_right_on_known_pictures():
    red = np.zeros((4, 4, 4))
    red[1:3, 1:3] = (1, 0, 0, 1)
    green = red[..., [1, 0, 2, 3]]
    assert hue_error_deg(red, green) == pytest.approx(120) and hue_error_deg(red, 0 * red) == 90
    # White minus red differs by 1 in two of three channels, in a quarter of the pixels.
    assert psnr_on_white(red, 0 * red) == pytest.approx(-10 * np.log10(2 / 3 / 4))
    hollow = torch.ones(6, 6, 6, dtype=torch.bool)
    hollow[2:4, 2:4, 2:4] = False
    assert bool(filled(hollow).all())
    hollow[:, 2, 2] = False
    assert int((~filled(hollow)).sum()) == 6 + 8 - 2


def test_photos_are_straight_and_know_their_depth():
    one = thing("chair")
    photo = photo_of(one, 32, "chair")
    rgba = photograph(one, 0.0, 15.0, 32)[0]
    premultiplied = (photo.rgba[:3] * photo.rgba[3:]).permute(1, 2, 0).numpy()
    assert np.allclose(premultiplied, rgba[..., :3], atol=1e-3) and photo.notes.class_name == "chair"
    assert 1.0 < float(photo.depth[photo.depth.isfinite()].min()) < 1.8
