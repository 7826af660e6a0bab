"""A mesh of a ball is the ball: within one voxel, closed, in its colours from all sides, and nothing else.

The field has a blob that no render shows and is hollow where none looks.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.camera_paths import CropBox
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters.mesh import MeshOptions, MeshReport, export_mesh
from nerfstudio_ext.exporters.placement import Placement
from nerfstudio_ext.exporters.surface import choose_threshold
from nerfstudio_ext.exporters.texture import covered_texels
from nerfstudio_ext.renderer import RayRenderer

from .analytic import FRAME, RADIUS, SOLID, BallField, around, paint, see

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")
PLAIN = Placement.of(None)
SIDES = [np.eye(3)[axis] * sign for axis in range(3) for sign in (1, -1)]


def export(
    target: Path, placement: Placement = PLAIN, core: float = 0.6, **options: object
) -> tuple[MeshReport, object]:
    settings = MeshOptions(**{"resolution": 48, **options})  # type: ignore[arg-type]
    report = export_mesh(RayRenderer(see), BallField(core), around(), target, settings, placement)
    loaded = trimesh.load(target, process=False)
    return report, loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded


def hits(mesh: object, side: np.ndarray, n: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces, barycentric weights and positions that a bundle of parallel rays from one side meets first."""
    corners = np.asarray(mesh.triangles, float)  # type: ignore[attr-defined]
    a, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = np.roll(np.abs(side), 1), np.roll(np.abs(side), 2)
    faces, weights, points = [], [], []
    for s in np.linspace(-0.6, 0.6, n):
        for t in np.linspace(-0.6, 0.6, n):
            o, d = 3 * side + RADIUS * (s * across[0] + t * across[1]) + 1e-7, -side
            p = np.cross(d, e2)
            det = (e1 * p).sum(1)
            det = np.where(np.abs(det) < 1e-12, np.inf, det)
            u = ((o - a) * p).sum(1) / det
            q = np.cross(o - a, e1)
            v, distance = q @ d / det, (e2 * q).sum(1) / det
            met = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0)
            face = np.flatnonzero(met)[distance[met].argmin()]
            faces.append(face)
            weights.append([1 - u[face] - v[face], u[face], v[face]])
            points.append(o + distance[face] * d)
    return np.array(faces), np.array(weights), np.array(points)


def check_colors(mesh: object, to_training=lambda x: x, largest: float = 6.0) -> None:  # type: ignore[no-untyped-def]
    """The colours seen from six sides are those of the ball."""
    for side in SIDES:
        face, weights, points = hits(mesh, side)
        corners = np.asarray(mesh.faces)[face]  # type: ignore[attr-defined]
        visual = mesh.visual  # type: ignore[attr-defined]
        if visual.kind == "texture":
            material = visual.material
            picture = getattr(material, "baseColorTexture", None) or material.image
            pixels = np.asarray(picture.convert("RGB"), float)
            uv = (np.asarray(visual.uv)[corners] * weights[..., None]).sum(1)
            height, width = pixels.shape[:2]
            column = (uv[:, 0] * width).astype(int).clip(0, width - 1)
            found = pixels[((1 - uv[:, 1]) * height).astype(int).clip(0, height - 1), column]
        else:
            found = (np.asarray(visual.vertex_colors, float)[corners][..., :3] * weights[..., None]).sum(1)
        truth = 255 * paint(torch.from_numpy(to_training(points)).float()).numpy()
        assert np.abs(found - truth).max() < largest, side


def test_the_mesh_is_the_ball_within_one_voxel_and_closed(tmp_path: Path) -> None:
    report, mesh = export(tmp_path / "ball.ply", resolution=64)
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radii - RADIUS).max() < report.voxel < 0.02
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
    assert mesh.volume > 0  # faces turn outwards
    assert (np.asarray(mesh.vertex_normals) * mesh.vertices / radii[:, None]).sum(1).min() > 0.8
    side = json.loads((tmp_path / "ball.ply.json").read_text())
    assert (
        side["threshold_was_chosen"] and 0 < side["density_threshold"] <= SOLID and side["n_faces"] == len(mesh.faces)
    )
    check_colors(mesh)


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_textured_mesh_opens_elsewhere_with_the_right_colours_from_six_sides(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("xatlas")
    report, mesh = export(tmp_path / f"ball{suffix}", resolution=24, colors="texture", texture_size=256)
    assert mesh.visual.kind == "texture" and len(mesh.faces) == report.n_faces
    assert {file.suffix for file in report.files} == ({".glb"} if suffix == ".glb" else {".obj", ".mtl", ".png"})
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < report.voxel
    # A texel of a map of 256 is as wide as a tenth of the radius at worst.
    check_colors(mesh, largest=12.0)


def test_vertex_colours_of_other_formats(tmp_path: Path) -> None:
    _, mesh = export(tmp_path / "ball.obj", resolution=24)
    assert mesh.visual.kind == "vertex"
    check_colors(mesh)
    _, mesh = export(tmp_path / "ball.glb", resolution=24)
    content = (tmp_path / "ball.glb").read_bytes()
    length = int.from_bytes(content[12:16], "little")
    document = json.loads(content[20 : 20 + length])
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = 28 + length + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    linear = np.frombuffer(content, "<f4", 4 * accessor["count"], start).reshape(-1, 4)[:, :3]
    # glTF stores linear light.
    stored = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    truth = paint(torch.from_numpy(np.asarray(mesh.vertices)).float()).numpy()
    assert len(stored) == len(mesh.vertices) and np.abs(stored - truth).max() < 0.07


def test_frame_up_axis_and_scale_of_a_mesh(tmp_path: Path) -> None:
    placement = Placement.of(FRAME, up="y", scale=10.0)
    report, mesh = export(tmp_path / "ball.ply", placement, resolution=24)
    change = placement.to_file.inverse()
    training = change.points(torch.from_numpy(np.asarray(mesh.vertices))).numpy()
    assert np.abs(np.linalg.norm(training, axis=1) - RADIUS).max() < report.voxel * change.scale
    assert mesh.volume > 0 and 0.02 < report.voxel * change.scale < 0.06


def test_fewer_faces_only_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("fast_simplification")
    many, _ = export(tmp_path / "many.ply")
    few, mesh = export(tmp_path / "few.ply", n_faces=800)
    assert many.n_faces > 5000 and 600 <= few.n_faces <= 840
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < 2 * few.voxel
    check_colors(mesh, largest=10.0)


def test_a_crop_box_bounds_the_mesh(tmp_path: Path) -> None:
    f64 = torch.float64
    angle = torch.tensor(0.5, dtype=f64)
    turn = torch.stack([angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0])
    rotation = torch.cat([turn, torch.tensor([0.0, 0, 1], dtype=f64)]).reshape(3, 3)
    crop = CropBox(torch.tensor([0.0, 0, 0.25], dtype=f64), torch.tensor([1.0, 1, 0.5], dtype=f64), rotation)
    report, mesh = export(tmp_path / "half.ply", core=0.0, crop=crop)
    vertices = np.asarray(mesh.vertices)
    assert vertices[:, 2].min() > -report.voxel and vertices[:, 2].max() > RADIUS - report.voxel
    assert np.abs(np.linalg.norm(vertices, axis=1) - RADIUS)[vertices[:, 2] > 2 * report.voxel].max() < report.voxel


def test_the_threshold_is_where_the_renders_see_the_surface() -> None:
    class Soft:
        """Density 1000 deep inside, 0 far outside, 120 where the surface is seen."""

        def density(self, x: torch.Tensor) -> torch.Tensor:
            depth = (RADIUS - x.norm(dim=1)) / 0.02
            return 1000 * torch.sigmoid(depth + np.log(120 / 880))

    positions = torch.nn.functional.normalize(torch.randn(3000, 3), dim=1) * RADIUS
    found = choose_threshold(Soft(), positions, -positions / RADIUS, 0.02, torch.Generator().manual_seed(0))
    assert 80 < found.density < 180 and found.offset_voxels is not None and found.offset_voxels < 0.3


def test_every_texel_in_a_triangle_is_found_once_with_its_weights() -> None:
    generator = np.random.default_rng(0)
    corners = generator.uniform(2, 62, (1, 3, 2))
    texels, faces, weights = covered_texels(corners, 64)
    centres = np.stack([texels % 64 + 0.5, texels // 64 + 0.5], 1)
    np.testing.assert_allclose((weights[:, :, None] * corners[faces]).sum(1), centres, atol=1e-3)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    (a, b, c) = corners[0]
    area = abs(np.cross(np.append(b - a, 0), np.append(c - a, 0))[2]) / 2
    assert len(texels) == pytest.approx(area, rel=0.1)
    # Triangles that share their edges cover a square without gaps.
    square = np.array([[[0, 0], [8, 0], [8, 8]], [[0, 0], [8, 8], [0, 8]]], float)
    assert len(covered_texels(square, 8)[0]) == 64


@pytest.mark.parametrize(
    ("options", "suffix", "words"),
    [
        ({"resolution": 4}, ".ply", "a resolution of 4"),
        ({"threshold": -1.0}, ".ply", "a threshold of -1"),
        ({"threshold": 2 * SOLID * 1e6}, ".ply", "nothing is denser"),
        ({"n_faces": 2}, ".ply", "2 faces"),
        ({"colors": "texture"}, ".ply", "holds no texture"),
        ({"colors": "texture", "texture_size": 8}, ".glb", "a texture of 8"),
        ({"smoothing": -1.0}, ".ply", "smoothing"),
        ({}, ".stl", "cannot write '.stl'"),
    ],
)
def test_bad_requests_are_refused(tmp_path: Path, options: dict, suffix: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        export(tmp_path / f"x{suffix}", resolution=options.pop("resolution", 24), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_method_without_density_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no density.*nsx export points"):
        export_mesh(RayRenderer(see), object(), around(), tmp_path / "x.ply", MeshOptions(), PLAIN)
