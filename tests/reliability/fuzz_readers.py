"""The readers of foreign input, each with good files to damage and the way to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nerfstudio_ext.camera_paths import read_camera_path, read_world_frame
from nerfstudio_ext.camera_paths.table_file import path_from_table, read_pose_table
from nerfstudio_ext.camera_paths.world_frame import WorldFrame, write_world_frame
from nerfstudio_ext.exporters.ply import ply_bytes
from nerfstudio_ext.exporters.sequence import noted_files, read_manifest
from nerfstudio_ext.methods.torch_files import read_torch_file
from nerfstudio_ext.scenes.colmap import find_models, read_colmap, read_model_views
from nerfstudio_ext.scenes.exif import read_exif
from nerfstudio_ext.scenes.images import probe_image, read_image, read_mask
from nerfstudio_ext.scenes.llff import read_llff
from nerfstudio_ext.scenes.loading import load_scene
from nerfstudio_ext.scenes.ply_points import read_ply_points
from nerfstudio_ext.scenes.posed_formats import read_blender, read_transforms
from nerfstudio_ext.scenes.prepared import PreparedNotes, PreparedPhoto, read_prepared, write_prepared
from nerfstudio_ext.scenes.video import _demuxer, probe_video
from nerfstudio_ext.stages.lift.depth_files import file_depth
from nerfstudio_ext.strict_json import read_json
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.run_lock import RunLock
from tests.reliability import fuzz_runs, fuzz_viewer
from tests.reliability.fuzz_mutations import (
    Mutation,
    mutate_bytes,
    mutate_json,
    mutate_npy,
    mutate_numbers,
    mutate_safetensors,
    mutate_text,
    mutate_zip,
)
from tests.scenes import builders

N_PICTURES = 4
_BY_ENDING: dict[str, Mutation] = {
    ".json": mutate_json, ".jsonl": mutate_text, ".npy": mutate_npy, ".bin": mutate_numbers, ".txt": mutate_text,
    ".csv": mutate_text, ".safetensors": mutate_safetensors, ".request": mutate_text,
    ".nsx": mutate_zip({".json": mutate_json, ".npy": mutate_npy, ".safetensors": mutate_safetensors}),
    ".pth": mutate_zip({".pkl": mutate_bytes}),
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        name: For people, and folder of kept inputs.
        make: Writes good files into an empty folder; returns the names of those to be damaged.
        read: Reads the folder; must return or raise `UserError`.
        seal: Makes checksums fit what lies there, so that damage gets past them.
        share: Of the number of inputs asked for: a slow reader takes fewer.
        short: Inputs in the tests.
    """

    name: str
    make: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path], object]
    seal: Callable[[Path], None] | None = None
    share: float = 1.0
    short: int = 150

    def originals(self, folder: Path) -> dict[str, bytes]:
        """Make the good files; name and content of those to be damaged."""
        return {name: (folder / name).read_bytes() for name in self.make(folder)}

    def mutation(self, name: str) -> Mutation:
        """How a file is damaged, by its ending."""
        return _BY_ENDING.get(Path(name).suffix, mutate_text if name.startswith("text") else mutate_bytes)


def _transforms(folder: Path) -> tuple[str, ...]:
    points = np.random.default_rng(0).normal(0, 0.5, (40, 3)).astype(np.float32)
    top = {"k1": 0.01, "k2": 0.0, "p1": 0.0, "p2": 0.0, "camera_model": "OPENCV", "ply_file_path": "points.ply",
           "applied_transform": np.eye(4)[:3].tolist(), "train_filenames": [f"images/{i:04d}.png" for i in range(3)],
           "test_filenames": ["images/0003.png"], "aabb_scale": 4}  # fmt: skip
    builders.write_transforms(folder, builders.transforms(N_PICTURES, **top))
    (folder / "points.ply").write_bytes(ply_bytes(points))
    return ("transforms.json",)


def _blender(folder: Path) -> tuple[str, ...]:
    builders.write_blender(folder)
    return tuple(f"transforms_{split}.json" for split in ("train", "val", "test"))


def _llff(folder: Path) -> tuple[str, ...]:
    builders.write_llff(folder)
    return ("poses_bounds.npy",)


def _colmap(folder: Path, ending: str) -> tuple[str, ...]:
    names = builders.save_pictures(folder / "images", N_PICTURES)
    write = builders.write_colmap_binary if ending == "bin" else builders.write_colmap_text
    write(folder / "sparse" / "0", names)
    return tuple(f"sparse/0/{table}.{ending}" for table in ("cameras", "images", "points3D"))


def _read_colmap(folder: Path) -> None:
    find_models(folder)
    try:
        read_colmap(folder)
    finally:
        read_model_views(folder)


def _ply(folder: Path) -> tuple[str, ...]:
    points = np.random.default_rng(0).normal(0, 1, (30, 3)).astype(np.float32)
    (folder / "binary.ply").write_bytes(ply_bytes(points, colors=np.zeros((30, 3), np.uint8)))
    head = "ply\nformat ascii 1.0\ncomment x\nelement vertex 30\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (folder / "text.ply").write_text(head + "".join(f"{x} {y} {z}\n" for x, y, z in points))
    big = head.replace("ascii", "binary_big_endian").encode() + points.astype(">f4").tobytes()
    (folder / "big.ply").write_bytes(big)
    return ("binary.ply", "text.ply", "big.ply")


def _read_all_ply(folder: Path) -> None:
    for name in ("binary.ply", "text.ply", "big.ply"):
        points, n_dropped = read_ply_points(folder / name)
        assert np.isfinite(points).all() and n_dropped >= 0


def _images(folder: Path) -> tuple[str, ...]:
    rgb = Image.fromarray(builders.picture(1, 40, 32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769).update({0x920A: 4.2, 0xA405: 26, 0x829A: 0.01, 0x8827: 100, 0x829D: 1.8})
    rgb.save(folder / "a.jpg", quality=90, exif=exif)
    rgb.save(folder / "progressive.jpg", quality=70, progressive=True)
    rgb.save(folder / "a.png", exif=exif)
    Image.fromarray(builders.picture(2, 40, 32, 4)).save(folder / "alpha.png")
    Image.fromarray(builders.picture(3, 40, 32)[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    rgb.save(folder / "a.tif", compression="tiff_lzw")
    rgb.save(folder / "a.webp", quality=80)
    rgb.save(folder / "a.bmp")
    rgb.convert("P").save(folder / "a.gif")
    rgb.save(folder / "a.ppm")
    return tuple(sorted(path.name for path in folder.iterdir()))


def _read_image_of(names: tuple[str, ...]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        # The damaged one is the newest: reading all ten each time would be ten times as slow.
        path = max((folder / name for name in names), key=lambda p: p.stat().st_mtime_ns)
        info = probe_image(path)
        with Image.open(path) as picture:
            read_exif(picture)
        pixels = read_image(path, size=(info.width // 2 or 1, info.height // 2 or 1))
        assert pixels.dtype == np.uint8 and pixels.shape[2] in (3, 4)
        read_mask(path, (8, 8), is_ignore=True)

    return read


_IMAGE_FILES = (
    "a.jpg", "progressive.jpg", "a.png", "alpha.png", "deep.png", "a.tif", "a.webp", "a.bmp", "a.gif", "a.ppm",
)  # fmt: skip


def _camera_paths(folder: Path) -> tuple[str, ...]:
    matrix = np.eye(4).ravel().tolist()
    entries = [{"camera_to_world": matrix, "fov": 50.0, "aspect": 1.5} for _ in range(3)]
    keys = [{"matrix": json.dumps(matrix), "fov": 50.0, "aspect": 1.5} for _ in range(3)]
    top = {"camera_type": "perspective", "render_width": 96, "render_height": 64, "fps": 24, "seconds": 2.0,
           "is_cycle": False, "smoothness_value": 0.0}  # fmt: skip
    crop = {"crop_center": [0, 0, 0], "crop_scale": [1, 1, 1], "crop_bg_color": {"r": 1, "g": 2, "b": 3}}
    (folder / "whole.json").write_text(json.dumps({**top, "camera_path": entries, "keyframes": keys, "crop": crop}))
    (folder / "keys.json").write_text(json.dumps({**top, "keyframes": keys}))
    ngp = [{"R": [0, 0, 0, 1.0], "T": [0.5, 0.5, 0.1 * i], "fov": 50.0, "timestamp": float(i + 1)} for i in range(4)]
    (folder / "ngp.json").write_text(json.dumps({"path": ngp, "loop": False, "spline_order": 3}))
    return ("whole.json", "keys.json", "ngp.json")


def _read_paths(folder: Path) -> None:
    _newest(folder, (".json",), lambda path: read_camera_path(path, fuzz_runs.FRAME))


def _tables(folder: Path) -> tuple[str, ...]:
    fuzz_runs.cameras()  # made here once, not in every child
    rows = ["x,y,z,look_x,look_y,look_z,fov,time", *(f"{i},2.0,1.5,0,0,0,50,{0.5 * i}" for i in range(5))]
    (folder / "a.csv").write_text("\n".join(rows) + "\n")
    rows = ["x;y;z;qw;qx;qy;qz", *(f"{i};2.0;1.5;1;0;0;0" for i in range(5))]
    (folder / "b.csv").write_text("\n".join(rows) + "\n")
    return ("a.csv", "b.csv")


def _read_tables(folder: Path) -> None:
    def read(path: Path) -> None:
        path_from_table(read_pose_table(path), fuzz_runs.cameras(), frame=fuzz_runs.FRAME, up=(0, 0, 1), size=(48, 32))

    _newest(folder, (".csv",), read)


def _prepared(folder: Path) -> tuple[str, ...]:
    rgba = builders.picture(4, 16, 16, 4)
    write_prepared(PreparedPhoto(rgba, np.ones((16, 16), np.float32), PreparedNotes(text="a thing")), folder)
    return ("prepared.json", "depth.npy")


def _depth(folder: Path) -> tuple[str, ...]:
    np.save(folder / "depth.npy", np.random.default_rng(0).random((12, 16)))
    return ("depth.npy",)


class _PhotoSize:
    size = (16, 12)


def _notes(folder: Path) -> tuple[str, ...]:
    write_world_frame(WorldFrame.identity(), folder)
    rows = [json.dumps({"step": i, "loss": 0.5, "psnr": 20.0}) for i in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "lock").write_text(json.dumps({"pid": 1 << 22, "host": "elsewhere", "started": "7"}))
    (folder / "frames.json").write_text(json.dumps({"schema": 1, "frames": [{"file": "a.png"}]}))
    (folder / "frames-1.jsonl").write_text(json.dumps({"file": "a.png", "sha256": "0" * 64}) + "\n")
    return ("world_frame.json", "metrics.jsonl", "lock", "frames.json", "frames-1.jsonl")


def _read_notes(folder: Path) -> None:
    read_metrics(folder / "metrics.jsonl")
    noted_files(folder)
    read_manifest(folder)
    lock = RunLock(folder / "lock")
    lock.acquire()
    lock.release()
    read_world_frame(folder)


def _torch_file(folder: Path) -> tuple[str, ...]:
    torch.save({"net_coarse": {"w": torch.zeros(3, 4)}, "step": 3, "note": "x"}, folder / "model.pth")
    return ("model.pth",)


_MP4_HEAD = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08free\0\0\0\x10mdat" + bytes(8)


def _videos(folder: Path) -> tuple[str, ...]:
    (folder / "a.mp4").write_bytes(_MP4_HEAD)
    (folder / "b.mkv").write_bytes(b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01")
    (folder / "c.ts").write_bytes((b"\x47" + bytes(187)) * 4)
    (folder / "text.m3u8").write_bytes(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    return ("a.mp4", "b.mkv", "c.ts", "text.m3u8")


def _newest(folder: Path, endings: tuple[str, ...], read: Callable[[Path], object]) -> None:
    read(max((p for p in folder.iterdir() if p.suffix in endings), key=lambda p: p.stat().st_mtime_ns))


READERS: tuple[Reader, ...] = (
    Reader("json", _transforms, lambda f: read_json(f / "transforms.json"), short=500),
    Reader("transforms", _transforms, lambda f: read_transforms(f / "transforms.json")),
    Reader("scene", _transforms, load_scene, share=0.25, short=30),
    Reader("blender", _blender, read_blender),
    Reader("llff", _llff, read_llff),
    Reader("colmap_binary", lambda f: _colmap(f, "bin"), _read_colmap),
    Reader("colmap_text", lambda f: _colmap(f, "txt"), _read_colmap),
    Reader("ply", _ply, _read_all_ply, short=500),
    Reader("images", _images, _read_image_of(_IMAGE_FILES)),
    Reader("camera_path", _camera_paths, _read_paths),
    Reader("table", _tables, _read_tables),
    Reader("prepared", _prepared, read_prepared),
    Reader("depth", _depth, lambda f: file_depth(f / "depth.npy", _PhotoSize(), "distance")),  # type: ignore[arg-type]
    Reader("notes", _notes, _read_notes),
    Reader("torch_file", _torch_file, lambda f: read_torch_file(f / "model.pth")),
    Reader("video_head", _videos, lambda f: _newest(f, (".mp4", ".mkv", ".ts", ".m3u8"), _demuxer), short=500),
    Reader("video", _videos, lambda f: _newest(f, (".mp4", ".mkv", ".ts"), probe_video), share=0.02, short=3),
    Reader("config", fuzz_runs.make_run, fuzz_runs.read_config, short=500),
    Reader("scene_json", fuzz_runs.make_scene, fuzz_runs.read_scene),
    Reader("checkpoint", fuzz_runs.make_checkpoint, fuzz_runs.read_checkpoint, fuzz_runs.seal_checkpoint),
    Reader("scene_file", fuzz_runs.make_scene_file, fuzz_runs.read_scene_file, fuzz_runs.seal_scene_file, 0.5, 60),
    Reader("mark", fuzz_runs.make_mark, fuzz_runs.read_mark, fuzz_runs.seal_mark, 0.5, 30),
    Reader("viewer_message", fuzz_viewer.make_messages, fuzz_viewer.read_message, short=500),
    Reader("viewer_request", fuzz_viewer.make_requests, fuzz_viewer.read_request, short=500),
    Reader("upload", _camera_paths, lambda f: _newest(f, (".json",), fuzz_viewer.read_upload)),
)
