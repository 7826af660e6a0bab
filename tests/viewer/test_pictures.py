"""Pixels stay what the renderer said; depth survives packing."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.renderer import Frame
from nerfstudio_ext.viewer.curves import MAX_POINTS, Curve
from nerfstudio_ext.viewer.pictures import (
    encode_depth,
    encode_jpeg,
    frame_range,
    to_rgb8,
    waiting_picture,
)


def test_colour_is_rounded_and_nothing_else():
    rgb = torch.rand(20, 30, 3)
    pixels = to_rgb8(Frame(rgb, torch.ones(20, 30), None))
    assert np.array_equal(pixels, np.round(rgb.numpy() * np.float32(255)).astype(np.uint8))
    exact = torch.arange(256).repeat(3, 1).T.reshape(1, 256, 3) / 255.0
    assert np.array_equal(to_rgb8(Frame(exact, torch.ones(1, 256), None))[0, :, 0], np.arange(256))


def test_alpha_is_grey_and_white_where_there_is_none():
    frame = Frame(torch.zeros(2, 2, 3), torch.ones(2, 2), torch.tensor([[0.0, 1.0], [0.5, 0.25]]))
    assert to_rgb8(frame, "alpha")[:, :, 1].tolist() == [[0, 255], [128, 64]]
    assert (to_rgb8(Frame(frame.rgb, frame.depth, None), "alpha") == 255).all()


def test_depth_is_coloured_over_its_own_range():
    depth = torch.linspace(1.0, 4.0, 400).reshape(20, 20)
    depth[0, 0] = torch.inf
    frame = Frame(torch.zeros(20, 20, 3), depth, torch.ones(20, 20))
    pixels = to_rgb8(frame, "depth").astype(int)
    assert pixels[0, 1, 0] > pixels[0, 1, 2], "near is red"
    assert pixels[-1, -1, 2] >= pixels[-1, -1, 0] and pixels[0, 0].sum() == 0, "far is blue, empty black"
    near, far = frame_range(frame)
    assert near == pytest.approx(1.06, abs=0.05) and far == pytest.approx(3.94, abs=0.05)


def test_a_view_without_depth_has_a_picture():
    empty = Frame(torch.zeros(4, 4, 3), torch.full((4, 4), torch.inf), torch.zeros(4, 4))
    assert (to_rgb8(empty, "depth") == 0).all()


def unpack(png: bytes) -> np.ndarray:
    """Depth as viser's web client reads it."""
    rgb = np.asarray(Image.open(io.BytesIO(png))).astype(np.int64)
    return (rgb[:, :, 0] * 65536 + rgb[:, :, 1] * 256 + rgb[:, :, 2]) / 100_000


def test_packed_depth_is_read_back():
    depth = 1.0 + 3.0 * torch.rand(40, 64)
    depth[0, 0] = torch.inf
    read = unpack(encode_depth(depth, 64))
    assert read.shape == (40, 64)
    assert np.abs(read - depth.numpy())[1:].max() <= 4.0 / 1024
    assert read[0, 0] == pytest.approx(167.77215)


def test_packing_agrees_with_visers_own():
    """Same bytes in the same channels as `set_background_image(depth=...)` sends."""
    from viser import _messages
    from viser._scene_api import SceneApi

    sent: list[_messages.BackgroundImageMessage] = []
    queue = type("Queue", (), {"queue_message": staticmethod(sent.append)})
    api = SceneApi.__new__(SceneApi)
    api._websock_interface = queue  # type: ignore[assignment]
    depth = np.array([[0.5, 1.25], [3.0, 160.0]], np.float32)
    api.set_background_image(np.zeros((2, 2, 3), np.uint8), format="jpeg", depth=depth)
    theirs = np.asarray(Image.open(io.BytesIO(sent[0].depth_data)))[:, :, :3].astype(np.int64)
    ours = unpack(encode_depth(torch.from_numpy(depth), 64))
    assert (theirs @ [65536, 256, 1]) / 100_000 == pytest.approx(depth, abs=1e-5)
    assert ours == pytest.approx(depth, abs=160 / 1024)


def test_large_depth_is_thinned():
    assert unpack(encode_depth(torch.ones(300, 400), 128)).shape == (75, 100)


def test_jpeg_quality_moves_size():
    pixels = (np.random.default_rng(0).random((64, 64, 3)) * 255).astype(np.uint8)
    assert len(encode_jpeg(pixels, 30)) < len(encode_jpeg(pixels, 90))


@pytest.mark.parametrize("aspect", [0.3, 1.0, 2.5, 15.0])
@pytest.mark.parametrize("thumbnail", [None, np.full((75, 100, 3), 200, np.uint8)])
def test_the_waiting_picture_has_the_windows_aspect_and_text(aspect, thumbnail):
    pixels = waiting_picture(thumbnail, aspect)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    if aspect < 4:
        assert pixels.shape[1] / pixels.shape[0] == pytest.approx(aspect, rel=0.05)
    assert pixels.max() > 220, "the text is there"


def test_curves_stay_bounded_and_keep_their_shape():
    curve = Curve()
    for step in range(10_000):
        curve.add(step, float(step) ** 0.5)
    steps, values = curve.arrays()
    assert MAX_POINTS / 2 <= len(steps) < MAX_POINTS
    assert np.allclose(values, steps**0.5) and steps[0] == 0 and steps[-1] > 9_900
    assert (np.diff(steps) > 0).all()


def test_curves_leave_out_nonsense_and_rewind_on_resume():
    curve = Curve()
    for step, value in ((1, 1.0), (2, float("nan")), (3, 3.0), (4, 4.0), (3, 2.5)):
        curve.add(step, value)
    steps, values = curve.arrays()
    assert steps.tolist() == [1, 3] and values.tolist() == [1.0, 2.5]
