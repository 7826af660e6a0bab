"""The pixel stream: uniform over usable pixels, seeded, resumable, and its rays are those of the cameras."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.lenses import Lens
from nerfstudio_ext.scenes import pixel_sampler
from nerfstudio_ext.scenes.images import ImageStore
from nerfstudio_ext.scenes.model import Scene, SceneFrame, SceneMeta, Split
from nerfstudio_ext.scenes.pixel_sampler import PixelSampler
from tests.scenes.builders import picture, ring

LENSES = {
    "perspective": Lens(),
    "opencv": Lens("opencv", (-0.1, 0.02, 0.001, 0.002)),
    "fisheye": Lens("fisheye", (0.03, 0.01)),
    "equirectangular": Lens("equirectangular"),
}


def make_scene(
    sizes: list[tuple[int, int]],
    *,
    lens: Lens = LENSES["perspective"],
    channels: int = 3,
    masks: dict[int, np.ndarray] | None = None,
    focal_step: float = 0.0,
) -> Scene:
    """A scene of pictures of random pixels; masks [H,W] by position; each camera's focal length differs by a step."""
    cameras = []
    for i, ((width, height), pose) in enumerate(zip(sizes, ring(len(sizes)), strict=True)):
        K = torch.tensor([[20 + i * focal_step, 0, width / 2 - 1], [0, 21, height / 2], [0, 0, 1]], dtype=torch.float64)
        c2w = torch.from_numpy(pose[:3] * [1, -1, -1, 1])
        cameras.append(Camera(width, height, K, c2w, lens))
    valid = [
        None if masks is None or i not in masks else np.flatnonzero(masks[i]).astype(np.int32)
        for i in range(len(sizes))
    ]
    frame = SceneFrame(torch.eye(3, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), 0.25, 2)
    names = tuple(f"{i}.png" for i in range(len(sizes)))
    split = Split(tuple(range(len(sizes))), (), ())
    meta = SceneMeta("test", "test", Cameras(cameras), names, split, frame, has_alpha=channels == 4)
    return Scene(meta, ImageStore.from_arrays([picture(i, *size, channels) for i, size in enumerate(sizes)], valid))


SAME = [(24, 16)] * 6
MIXED = [(24, 16), (10, 30), (7, 7), (24, 16)]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("sizes", [SAME, MIXED], ids=["same", "mixed"])
def test_colours_are_those_of_the_pixels(sizes: list[tuple[int, int]], channels: int) -> None:
    batch = PixelSampler(make_scene(sizes, channels=channels), range(len(sizes)), seed=0).next(500)
    assert (batch.uv % 1 == 0.5).all() and len(batch) == 500
    assert (batch.alpha is None) == (channels == 3)
    for i in range(500):
        cam = int(batch.cam_ids[i])
        u, v = batch.uv[i].long().tolist()
        expected = picture(cam, *sizes[cam], channels)[v, u] / 255
        assert batch.rgb[i].tolist() == pytest.approx(expected[:3].tolist(), abs=1e-6)
        if batch.alpha is not None:
            assert batch.alpha[i].item() == pytest.approx(expected[3], abs=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [SAME, MIXED], ids=["same", "mixed"])
def test_every_usable_pixel_is_equally_likely(sizes: list[tuple[int, int]], masked: bool) -> None:
    """Chi-square of the counts against the uniform law: within 5 standard deviations of its mean."""
    rng = np.random.default_rng(1)
    masks = {i: rng.random((h, w)) < 0.3 for i, (w, h) in enumerate(sizes) if i != 1} if masked else None
    chosen = [0, 1, 3]
    sampler = PixelSampler(make_scene(sizes, masks=masks), chosen, seed=3)
    starts = np.concatenate([[0], np.cumsum([w * h for w, h in sizes])])
    widths = np.array([w for w, _ in sizes])
    usable = np.zeros(starts[-1], bool)
    for i in chosen:
        w, h = sizes[i]
        mask = np.ones((h, w), bool) if masks is None or i not in masks else masks[i]
        usable[starts[i] : starts[i + 1]] = mask.ravel()
    counts = np.zeros(starts[-1])
    for _ in range(20):
        batch = sampler.next(5000)
        uv = batch.uv.long().numpy()
        cam = batch.cam_ids.numpy()
        np.add.at(counts, starts[cam] + uv[:, 1] * widths[cam] + uv[:, 0], 1)
    assert counts[~usable].sum() == 0
    n = int(usable.sum())
    assert n == sampler.n_pixels
    expected = 100_000 / n
    chi2 = ((counts[usable] - expected) ** 2 / expected).sum()
    assert abs(chi2 - (n - 1)) < 5 * np.sqrt(2 * (n - 1))


def test_pixel_and_picture_are_independent() -> None:
    """The average position within the picture is the centre for every picture."""
    batch = PixelSampler(make_scene(SAME), range(6), seed=1).next(60_000)
    for i in range(6):
        mean = batch.uv[batch.cam_ids == i].mean(0)
        assert mean.tolist() == pytest.approx([12, 8], abs=5 * 7 / np.sqrt(10_000))


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("focal_step", [0.0, 0.5])
@pytest.mark.parametrize("lens", LENSES)
def test_rays_are_those_of_the_cameras(
    lens: str, focal_step: float, has_table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_table:
        monkeypatch.setattr(pixel_sampler, "MAX_TABLE_PIXELS", 0)
    scene = make_scene(MIXED, lens=LENSES[lens], focal_step=focal_step)
    sampler = PixelSampler(scene, [0, 2, 3], seed=0)
    batch = sampler.next(1000)
    rays = sampler.rays(batch)
    expected = scene.meta.training_cameras().rays_through(batch.cam_ids, batch.uv.double())
    assert rays.rays_d.dtype == torch.float32
    assert (rays.rays_d - expected.rays_d).abs().max() < 5e-7
    assert (rays.rays_o - expected.rays_o).abs().max() < 1e-7
    assert (rays.t_min == 0).all() and torch.isinf(rays.t_max).all()
    assert (rays.rays_d.norm(dim=-1) - 1).abs().max() < 1e-6


def test_the_stream_continues_bit_by_bit() -> None:
    scene = make_scene(MIXED)
    first = PixelSampler(scene, [0, 1], seed=5)
    for _ in range(3):
        first.next(100)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second = PixelSampler(scene, [0, 1], seed=99)
    second.load_state_dict(state)
    for n in (100, 7, 333):
        a, b = first.next(n), second.next(n)
        assert torch.equal(a.cam_ids, b.cam_ids) and torch.equal(a.uv, b.uv) and torch.equal(a.rgb, b.rgb)


def test_seeds() -> None:
    scene = make_scene(SAME)
    a, b, c = (PixelSampler(scene, range(6), seed=s).next(50).uv for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    state = torch.get_rng_state()
    PixelSampler(scene, range(6), seed=1).next(50)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's randomness is touched


def test_repeated_positions_count_once_and_nothing_is_an_error() -> None:
    scene = make_scene(SAME)
    assert PixelSampler(scene, [2, 2, 2], seed=0).n_pixels == 24 * 16
    with pytest.raises(UserError, match="no usable pixels"):
        PixelSampler(scene, [], seed=0)


def test_opaque_captures_have_no_alpha_even_in_four_channels() -> None:
    scene = make_scene(SAME, channels=4)
    scene = dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, has_alpha=False))
    batch = PixelSampler(scene, [0], seed=0).next(10)
    assert batch.alpha is None and batch.rgb.shape == (10, 3)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lego", "fox"])
def test_real_captures(name: str, shared: Path) -> None:
    from nerfstudio_ext.scenes import load_scene

    scene = load_scene(shared / "data" / name)
    sampler = PixelSampler(scene, scene.meta.split.train, seed=0)
    batch = sampler.next(8192)
    expected = scene.meta.training_cameras().rays_through(batch.cam_ids, batch.uv.double())
    assert (sampler.rays(batch).rays_d - expected.rays_d).abs().max() < 5e-7
    assert set(batch.cam_ids.tolist()) == set(scene.meta.split.train)
    if name == "fox":
        by_name = sorted(scene.meta.image_names)
        assert sorted(scene.meta.image_names[i] for i in scene.meta.split.test) == by_name[::8]
        assert scene.meta.frame.aabb_scale == 4
    else:
        assert [len(getattr(scene.meta.split, s)) for s in ("train", "val", "test")] == [100, 5, 25]
