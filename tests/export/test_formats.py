"""What the less common outputs hold, read by other programs: EXR, panoramas, normals, several rays per pixel."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.camera_paths import CropBox, from_views
from nerfstudio_ext.camera_paths.path import CameraPath
from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.exporters.exr import exr_bytes
from nerfstudio_ext.exporters.oversampling import OversamplingRenderer
from nerfstudio_ext.exporters.spherical import mark_spherical
from nerfstudio_ext.lenses import Lens
from nerfstudio_ext.renderer import RayRenderer

from .ball import DISTANCE, RADIUS, ball, opaque_ball, turn, views

F64 = torch.float64


def decoded(file: Path, pixel_format: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels of a file as ffmpeg understands it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(file), "-f", "rawvideo"]
    content = subprocess.run([*command, "-pix_fmt", pixel_format, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(content, dtype).reshape(shape)


def panorama(n: int = 3) -> CameraPath:
    """A turn of 360-degree frames."""
    cameras = [replace(c.resize(64, 32), lens=Lens("equirectangular")) for c in turn(n).cameras]
    return CameraPath(Cameras(cameras), fps=12, kind="orbit")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 16), (33, 50)])
def test_an_exr_file_gives_the_numbers_back(tmp_path: Path, width: int, height: int) -> None:
    values = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
    values[0, 0] = np.inf
    smooth = np.broadcast_to(np.linspace(1, 2, width, dtype=np.float32), (height, width))
    for i, picture in enumerate((values, smooth)):
        file = tmp_path / f"{i}.exr"
        file.write_bytes(exr_bytes(picture))
        np.testing.assert_array_equal(decoded(file, "grayf32le", "<f4", (height, width)), picture)
    assert width * height < 1000 or len(exr_bytes(smooth)) < 0.5 * smooth.nbytes


def test_depth_as_exr_is_the_depth(tmp_path: Path) -> None:
    options = FrameOptions(outputs=("depth",), depth_format="exr")
    (file,) = write_frames(RayRenderer(ball), from_views(views(1, 41, 41)), tmp_path / "d", options)
    values = decoded(file, "grayf32le", "<f4", (41, 41))
    assert values[20, 20] == pytest.approx(DISTANCE - RADIUS, abs=1e-3) and np.isinf(values[0, 0])
    with pytest.raises(UserError, match="raw depth does not fit"):
        write_frames(RayRenderer(ball), turn(2), tmp_path / "d.mp4", options)


def test_a_360_film_says_so_and_plays_as_before(tmp_path: Path) -> None:
    (film,) = write_frames(RayRenderer(ball), panorama(), tmp_path / "around.mp4")
    said = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(film)], capture_output=True, text=True, check=False
    ).stderr
    assert "Spherical Mapping: equirectangular" in said
    content = film.read_bytes()
    assert b"<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>" in content
    assert content.index(b"moov") < content.index(b"GSpherical") < content.index(b"mdat")
    plain = tmp_path / "plain.mp4"
    write_frames(RayRenderer(ball), replace(panorama(), cameras=Cameras([*panorama().cameras])), plain)
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == 3
    frames = decoded(film, "rgb24", "u1", (3, 32, 64, 3))
    expected = RayRenderer(ball).render(panorama().cameras[0]).rgb.numpy() * 255
    assert np.abs(frames[0] - expected).mean() < 8
    flat = write_frames(RayRenderer(ball), turn(2), tmp_path / "flat.mp4")[0].read_bytes()
    assert b"GSpherical" not in flat and b"sv3d" not in flat


@pytest.mark.parametrize("damage", ["cut", "long box", "no film"])
def test_a_damaged_film_is_refused(tmp_path: Path, damage: str) -> None:
    (film,) = write_frames(RayRenderer(ball), turn(2), tmp_path / "o.mp4")
    content = bytearray(film.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "long box":
        place = content.index(b"trak") - 4
        content[place : place + 4] = b"\x7f\xff\xff\xff"
    else:
        content = bytearray(b"not a film at all")
    film.write_bytes(content)
    with pytest.raises(UserError):
        mark_spherical(film, tmp_path / "out.mp4")


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_360_pictures_carry_panorama_tags(tmp_path: Path, image_format: str) -> None:
    options = FrameOptions(image_format=image_format)  # type: ignore[arg-type]
    (file, *_) = write_frames(RayRenderer(ball), panorama(), tmp_path / "p", options)
    with Image.open(file) as image:
        tags = str(image.info["xmp" if image_format == "jpeg" else "XML:com.adobe.xmp"])
    assert 'GPano:ProjectionType="equirectangular"' in tags and 'GPano:FullPanoWidthPixels="64"' in tags
    (flat,) = write_frames(RayRenderer(ball), turn(1), tmp_path / "flat", options)
    with Image.open(flat) as image:
        assert not {"xmp", "XML:com.adobe.xmp"} & set(image.info)


def test_normals_are_in_the_source_frame(tmp_path: Path) -> None:
    class Turned:
        """The source frame is the training frame turned by 90 degrees about z: source x is training y."""

        rotation = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=F64)
        translation, scale = torch.zeros(3, dtype=F64), 1.0

    path = from_views(views(1, 41, 41))  # from training +x: the nearest point's normal is training x, source -y
    options = FrameOptions(outputs=("normal",))
    (file,) = write_frames(RayRenderer(opaque_ball), path, tmp_path / "n", options, frame=Turned())
    picture = np.asarray(Image.open(file)).astype(int)
    assert np.abs(picture[20, 20] - [127.5, 0, 127.5]).max() < 8
    (film,) = write_frames(RayRenderer(ball), turn(2), tmp_path / "n.mp4", options)
    assert film.exists()


@pytest.mark.parametrize("lens", ["perspective", "equirectangular"])
def test_more_rays_per_pixel_are_the_mean_of_a_larger_picture(lens: str) -> None:
    camera = replace(views(1, 24, 16)[0], lens=Lens(lens))  # type: ignore[arg-type]
    one, three = RayRenderer(ball), OversamplingRenderer(RayRenderer(ball), 3)
    large = one.render(camera.resize(72, 48))
    expected = large.rgb.reshape(16, 3, 24, 3, 3).mean((1, 3))
    found = three.render(camera)
    # A ray at the rim of the ball or of a square may round to the other side.
    assert ((found.rgb - expected).abs().amax(-1) < 1e-4).float().mean() > 0.97
    assert found.alpha is not None and ((found.alpha > 0.05) & (found.alpha < 0.95)).any()
    depths = set(large.depth.flatten().tolist())
    near = sum(min(abs(d - e) for e in depths) < 1e-4 for d in found.depth.flatten().tolist()[:200] if d < 9)
    total = sum(d < 9 for d in found.depth.flatten().tolist()[:200])
    assert near == total


def test_samples_smooth_edges_in_files(tmp_path: Path) -> None:
    options = FrameOptions(outputs=("alpha",), samples=4)
    (file,) = write_frames(RayRenderer(ball), turn(1), tmp_path / "a", options)
    assert len(np.unique(np.asarray(Image.open(file)))) > 4
    (hard,) = write_frames(RayRenderer(ball), turn(1), tmp_path / "b", replace(options, samples=1))
    assert len(np.unique(np.asarray(Image.open(hard)))) == 2


def test_the_crop_box_of_a_path_is_applied(tmp_path: Path) -> None:
    lower = CropBox(torch.tensor([0.0, 0, -0.5], dtype=F64), torch.full((3,), 1.0, dtype=F64), torch.eye(3, dtype=F64),
                    (0.0, 1.0, 0.0))  # fmt: skip
    path = replace(from_views(views(1, 40, 40)), crop=lower)
    (file,) = write_frames(RayRenderer(ball), path, tmp_path / "c", FrameOptions(outputs=("rgb",)))
    picture = np.asarray(Image.open(file))
    whole = np.asarray(Image.open(write_frames(RayRenderer(ball), from_views(views(1, 40, 40)), tmp_path / "w")[0]))
    assert (picture[5:19] == [0, 255, 0]).all() and (picture[22:30, 15:25] == whole[22:30, 15:25]).all()

    class Fixed:
        background = (1.0, 1.0, 1.0)

        def render(self, camera, *, cancel=None):
            raise AssertionError

    with pytest.raises(UserError, match="cannot apply the crop box"):
        write_frames(Fixed(), path, tmp_path / "x")
