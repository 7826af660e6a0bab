"""`nsx export` on a run of the analytic ball: every kind, from the run and from its scene file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.cli import main
from nerfstudio_ext.scenes.colmap import read_model_views
from nerfstudio_ext.scenes.scene_json import read_scene_json
from tests.export.analytic import FRAME, RADIUS, BallConfig, registered, write_run
from tests.export.test_points import read_cloud

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def ball_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with registered():
        yield write_run(tmp_path_factory.mktemp("outputs"))


def result_of(capsys: Capture, *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json", "-"]) == code
    return dict(json.loads(capsys.readouterr().out))


def source_radii(positions: np.ndarray) -> np.ndarray:
    """Distance of points from the ball's centre in the capture's own frame, in radii."""
    center = (-FRAME.rotation.T @ FRAME.translation / FRAME.scale).numpy()
    return np.asarray(np.linalg.norm(positions - center, axis=1) * FRAME.scale / RADIUS)


def test_points_and_mesh_lie_where_the_capture_has_the_ball(ball_run: Path, tmp_path: Path, capsys: Capture) -> None:
    points = result_of(capsys, "export", "points", ball_run, "--n-points", "2000", "--output-path", tmp_path / "p.ply")
    assert points["points"] == 2000 and points["placement"]["frame"] == "frame of the capture (source)"
    assert np.abs(source_radii(read_cloud(tmp_path / "p.ply").positions) - 1).max() < 1e-4
    # A box of the capture's units around the ball's upper half.
    center = (-FRAME.rotation.T @ FRAME.translation / FRAME.scale).tolist()
    box = ["--crop-size", "4", "4", "4", "--crop-center", center[0], center[1], center[2] + 2]
    scene = tmp_path / "ball.nsx"
    result_of(capsys, "export", "scene", ball_run, "--output-path", scene)
    mesh = result_of(
        capsys, "export", "mesh", scene, "--resolution", "24", "--smoothing", "0.5", "--output-path",
        tmp_path / "m.ply", *box,
    )  # fmt: skip
    vertices = read_cloud(tmp_path / "m.ply").positions
    assert mesh["vertices"] == len(vertices) > 200 and mesh["threshold"] > 0
    assert vertices[:, 2].min() > center[2] - mesh["voxel"]
    upper = vertices[vertices[:, 2] > center[2] + 2 * mesh["voxel"]]
    assert np.abs(source_radii(upper) - 1).max() < mesh["voxel"] * FRAME.scale / RADIUS


def test_cameras_of_both_formats(ball_run: Path, tmp_path: Path, capsys: Capture) -> None:
    meta = read_scene_json(ball_run / "scene.json")
    made = result_of(capsys, "export", "cameras", ball_run)
    assert made["cameras"] == len(meta.cameras) and Path(made["output"]) == ball_run / "exports/transforms.json"
    words = ["--format", "colmap", "--split", "test", "--output-path", tmp_path / "model"]
    assert result_of(capsys, "export", "cameras", ball_run, *words)["cameras"] == 2
    found, names = read_model_views(tmp_path / "model")
    assert names == meta.image_names[:2]
    np.testing.assert_allclose(found.c2w.numpy(), meta.cameras.c2w[:2].numpy(), atol=1e-12)
    # And as a path: the two views, rendered as the test views are.
    path = result_of(capsys, "path", "from-colmap", ball_run, "--input", tmp_path / "model")
    result_of(capsys, "render", ball_run, "--path", path["path"], "--output-path", tmp_path / "a")
    result_of(capsys, "render", ball_run, "--path", "test", "--output-path", tmp_path / "b")
    pairs = zip(sorted((tmp_path / "a").glob("*.png")), sorted((tmp_path / "b").glob("*.png")), strict=True)
    for a, b in pairs:
        one, two = np.asarray(Image.open(a)), np.asarray(Image.open(b))
        assert (one != two).any(-1).mean() < 1e-3 and np.ptp(one) > 100


def test_a_method_without_density_gives_points_but_no_mesh(ball_run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert ball_run.exists()  # the method is registered
    run = write_run(tmp_path, BallConfig(has_density=False))
    assert main(["export", "mesh", str(run)]) == 2
    assert "no density to draw a surface of. Use `nsx export points`" in capsys.readouterr().err
    made = result_of(capsys, "export", "points", run, "--n-points", "500")
    assert made["points"] == 500 and Path(made["output"]) == run / "exports/points.ply"
