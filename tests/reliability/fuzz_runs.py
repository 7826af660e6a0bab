"""Small runs, scenes and networks on disk, for readers to be fuzzed with; made without training a step."""

from __future__ import annotations

import atexit
import functools
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from torch import nn

from nerfstudio_ext import methods
from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.gnt_weights import Architecture, GntModel, load_gnt, save_gnt
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.scenes.loading import load_scene
from nerfstudio_ext.scenes.model import Scene, SceneFrame
from nerfstudio_ext.scenes.scene_json import read_scene_json, write_scene_json
from nerfstudio_ext.stages.stega.weight_files import WeightFormat, checksum
from nerfstudio_ext.training import checkpoints
from nerfstudio_ext.training.config import RunConfig, SceneSource, TrainConfig
from nerfstudio_ext.training.runs import Run, open_run, read_run_config
from nerfstudio_ext.training.scene_file import MANIFEST, open_scene_file, thumbnail_bytes, write_scene_file
from tests.reliability.fuzz_mutations import zipped
from tests.scenes import builders

FRAME = SceneFrame(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0.5, 2)
STEP = 10
_WEIGHTS = ("weights.safetensors", "trainer.safetensors")
_THING = WeightFormat("a", "thing", "nerfstudio-ext thing", 1)


@functools.cache
def _home() -> Path:
    """Holds one small run and what was made from it, for the life of the process."""
    folder = Path(tempfile.mkdtemp(prefix="nsx-fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    capture = builders.write_transforms(folder / "capture", builders.transforms(4, ply_file_path=None))
    config = NgpConfig(
        n_levels=2, log2_table=6, base_resolution=4, finest_resolution=8, hidden=16, color_hidden=16, grid_size=8,
        steps_per_unit=32, backend="reference",
    )  # fmt: skip
    scene = load_scene(capture)
    whole = RunConfig(config, TrainConfig(max_steps=STEP), SceneSource(str(capture)))
    with Run.create(folder / "outputs", whole, scene.meta) as run:
        method = methods.build(config, scene.meta, seed=0, device="cpu")
        trainer = {"log/x": torch.zeros(3), "clock/train_seconds": torch.tensor(1.0)}
        checkpoints.save_checkpoint(run.checkpoints, STEP, method.state_dict(), trainer)
        (run.path / "thumbnails").mkdir()
        for i in range(2):
            (run.path / "thumbnails" / f"{i:05d}.jpg").write_bytes(b"\xff\xd8 not looked at here")
    (folder / "outputs").rename(folder / "o")
    (found,) = (folder / "o").glob("*/ngp/*")
    found.rename(folder / "run")
    write_scene_file(open_run(folder / "run"), folder / "a.nsx")
    return folder


@functools.cache
def _scene() -> Scene:
    return load_scene(_home() / "capture")


def cameras() -> Cameras:
    """Cameras of a capture, in the training frame."""
    return _scene().meta.training_cameras()


def make_run(folder: Path) -> tuple[str, ...]:
    shutil.copy(_home() / "run" / "config.json", folder)
    return ("config.json",)


def read_config(folder: Path) -> None:
    read_run_config(folder)


def make_scene(folder: Path) -> tuple[str, ...]:
    import dataclasses

    import numpy as np

    points = np.random.default_rng(0).normal(0, 1, (20, 3)).astype(np.float32)
    write_scene_json(dataclasses.replace(_scene().meta, points=points), folder / "scene.json")
    return ("scene.json", "scene_points.npy")


def read_scene(folder: Path) -> None:
    read_scene_json(folder / "scene.json").training_cameras()


def make_checkpoint(folder: Path) -> tuple[str, ...]:
    shutil.copytree(_home() / "run", folder / "run")
    base = f"run/checkpoints/{checkpoints.checkpoint_name(STEP)}"
    return tuple(f"{base}/{name}" for name in (*_WEIGHTS, "manifest.json"))


def read_checkpoint(folder: Path) -> None:
    run = folder / "run"
    try:
        open_run(run)
    finally:
        checkpoints.newest_checkpoint(run / "checkpoints")


def seal_checkpoint(folder: Path) -> None:
    """Let the manifest describe the tensor files that lie there."""
    base = folder / "run" / "checkpoints" / checkpoints.checkpoint_name(STEP)
    manifest = base / "manifest.json"
    try:
        entries = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        return
    if not isinstance(entries, dict):
        return
    whole = checkpoints._manifest_bytes(STEP, {name: (base / name).read_bytes() for name in _WEIGHTS})
    if set(json.loads(whole)) == set(entries) and entries.get("step") == STEP:
        manifest.write_bytes(whole)
        return
    body = {key: value for key, value in entries.items() if key != "sha256"}
    digest = hashlib.sha256(checkpoints._canonical(body)).hexdigest()
    manifest.write_bytes(checkpoints._canonical({**body, "sha256": digest}))


def make_scene_file(folder: Path) -> tuple[str, ...]:
    shutil.copy(_home() / "a.nsx", folder)
    return ("a.nsx",)


def read_scene_file(folder: Path) -> None:
    path = folder / "a.nsx"
    open_scene_file(path)
    thumbnail_bytes(path, range(3))


def seal_scene_file(folder: Path) -> None:
    """Let the list of members describe the members that are there."""
    path = folder / "a.nsx"
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        about = json.loads(dict(members)[MANIFEST])
        about["files"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members
            if name != MANIFEST
        }
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError):
        return  # too damaged for its list to matter
    path.write_bytes(
        zipped([(name, json.dumps(about).encode() if name == MANIFEST else data) for name, data in members])
    )


def make_mark(folder: Path) -> tuple[str, ...]:
    torch.manual_seed(0)
    _THING.save(nn.Linear(4, 3), folder / "thing.safetensors", {"note": "x"})
    save_gnt(GntModel(Architecture(1, 16, 8, 4, (1, 1, 1))), folder / "gnt.safetensors")
    return ("thing.safetensors", "gnt.safetensors")


def read_mark(folder: Path) -> None:
    try:
        _THING.load(folder / "thing.safetensors", lambda notes: nn.Linear(4, 3))
    finally:
        load_gnt(folder / "gnt.safetensors")


def seal_mark(folder: Path) -> None:
    """Write the checksum of the tensors that are there into the notes."""
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    path = folder / "thing.safetensors"
    data = path.read_bytes()
    try:
        tensors = load(data)
        notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        path.write_bytes(save(tensors, {**{str(k): str(v) for k, v in notes.items()}, "sha256": checksum(tensors)}))
    except (SafetensorError, UserError, ValueError, KeyError, AttributeError, TypeError):
        return
