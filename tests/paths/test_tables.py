"""Paths from tables and COLMAP models: each row is where it says, in the frame it says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.camera_paths.curves import quaternions_from_matrices
from nerfstudio_ext.camera_paths.layout import look_at
from nerfstudio_ext.camera_paths.similarity import FrameChange
from nerfstudio_ext.camera_paths.table_file import path_from_table, read_pose_table
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.errors import UserError

F64 = torch.float64
UP = (0.0, 0.0, 1.0)
TURN = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=F64)
FRAME = FrameChange(TURN, torch.tensor([0.5, 0.0, -1.0], dtype=F64), 0.25)


def ring(n: int = 6) -> Cameras:
    """Cameras around the origin, 64x48, 50 degrees."""
    eyes = [3 * np.array([math.cos(a), math.sin(a), 0.4]) for a in np.linspace(0, 5, n)]
    return Cameras([Camera.perspective(64, 48, 50.0, look_at(eye, np.zeros(3), np.array(UP))) for eye in eyes])


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "path.csv"
    file.write_text(text)
    return file


def test_orientations_come_back_exactly_from_either_frame(tmp_path: Path) -> None:
    cameras = ring()
    rows = ["x,y,z,qw,qx,qy,qz,fov"]
    for camera, fov in zip(cameras, (20.0, 30, 40, 50, 60, 70), strict=True):
        q = quaternions_from_matrices(camera.c2w[None, :, :3].numpy())[0]
        rows.append(",".join(repr(float(v)) for v in (*camera.c2w[:, 3], *q, fov)))
    read = read_pose_table(table(tmp_path, "\n".join(rows)))
    same = path_from_table(read, cameras, frame=None, up=UP)
    torch.testing.assert_close(same.cameras.c2w, cameras.c2w)
    assert [round(math.degrees(2 * math.atan(24 / float(c.K[1, 1])))) for c in same.cameras] == [20, 30, 40, 50, 60, 70]
    moved = path_from_table(read, cameras, frame=FRAME, up=UP)
    expected = cameras.transformed(FRAME.rotation, FRAME.translation, FRAME.scale)
    torch.testing.assert_close(moved.cameras.c2w, expected.c2w)
    assert same.fps == 24 and same.size == (64, 48)


def test_without_orientation_cameras_look_at_the_subject_or_at_the_given_point(tmp_path: Path) -> None:
    path = path_from_table(read_pose_table(table(tmp_path, "x;y;z\n2;0;1\n0;2;1\n")), ring(), frame=None, up=UP)
    for camera in path.cameras:
        uv, depth = camera.project(torch.zeros(1, 3))
        assert depth > 0 and (uv - torch.tensor([32.0, 24.0])).abs().max() < 1e-3
    text = "X\tY\tZ\tlook_x\tlook_y\tlook_z\n2\t0\t1\t1\t5\t0\n"
    path = path_from_table(read_pose_table(table(tmp_path, text)), ring(), frame=None, up=UP)
    uv, depth = path.cameras[0].project(torch.tensor([[1.0, 5.0, 0.0]]))
    assert depth > 0 and (uv - torch.tensor([32.0, 24.0])).abs().max() < 1e-3


def test_times_are_kept_and_seconds_fly_smoothly(tmp_path: Path) -> None:
    rows = "time,x,y,z,look_x,look_y,look_z\n10,1,0,0,0,0,0\n11,0,1,0,0,0,0\n13,-1,0,0.5,0,0,0\n"
    read = read_pose_table(table(tmp_path, rows))
    path = path_from_table(read, ring(), frame=None, up=UP, fps=10)
    assert len(path) == 30 and path.seconds == pytest.approx(3.0)
    at = {10: (0, 1, 0)}
    fractions = np.linspace(0, 3, 30)
    nearest = int(np.abs(fractions - 1.0).argmin())
    assert np.linalg.norm(path.cameras[nearest].c2w[:, 3].numpy() - at[10]) < 0.1
    assert torch.allclose(path.cameras[0].c2w[:, 3], torch.tensor([1.0, 0, 0], dtype=F64))
    assert torch.allclose(path.cameras[29].c2w[:, 3], torch.tensor([-1.0, 0, 0.5], dtype=F64))
    plain = read_pose_table(table(tmp_path, "x,y,z\n2,0,0\n0,2,0\n-2,0,0\n"))
    smooth = path_from_table(plain, ring(), frame=None, up=UP, seconds=2.0, fps=20)
    steps = (smooth.cameras.c2w[1:, :, 3] - smooth.cameras.c2w[:-1, :, 3]).norm(dim=1)
    assert len(smooth) == 40 and steps.max() / steps.min() < 1.4  # turning counts as well


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no columns x, y, z"),
        ("a,b\n1,2\n", "unknown column 'a'"),
        ("x,y,z\n", "0 rows"),
        ("x,y,z\n1,2\n", "line 2 has 2 cells"),
        ("x,y,z\n1,2,nan\n", "line 2, column z: 'nan' is not a number"),
        ("x,y,z\n1,2,=cmd()\n", "is not a number"),
        ("x,y,z,qw,qx\n1,2,3,1,0\n", "only qw, qx is there"),
        ("x,y,z,qw,qx,qy,qz\n1,2,3,9,0,0,0\n", "quaternion"),
        ("x,y,z,time\n1,2,3,1\n1,2,3,1\n", "do not ascend"),
        ("x,y,z,fov\n1,2,3,180\n", "0 to 180"),
    ],
)
def test_bad_tables_are_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_pose_table(table(tmp_path, text))


def test_a_camera_cannot_look_at_itself(tmp_path: Path) -> None:
    read = read_pose_table(table(tmp_path, "x,y,z,look_x,look_y,look_z\n1,1,1,1,1,1\n"))
    with pytest.raises(UserError, match="row 1 looks at its own position"):
        path_from_table(read, ring(), frame=None, up=UP)


def test_frame_changes_compose_and_invert() -> None:
    x = torch.randn(20, 3, dtype=F64)
    torch.testing.assert_close(FRAME.inverse().points(FRAME.points(x)), x)
    other = FrameChange(TURN @ TURN, torch.ones(3, dtype=F64), 3.0)
    torch.testing.assert_close(FRAME.then(other).points(x), other.points(FRAME.points(x)))
    torch.testing.assert_close(FRAME.directions(x).norm(dim=1), x.norm(dim=1))
