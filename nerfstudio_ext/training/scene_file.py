"""The portable scene file `NAME.nsx`: weights, settings, cameras and thumbnails of a run in one file.

A zip archive without compression that holds data only: `nsx.json` (format, step, origin, and size and SHA-256 of every
other member), `config.json`, `scene.json`, `weights.safetensors`, and where there are any `scene_points.npy`,
`photos.safetensors` (source pictures of a method that looks at photos), `world_frame.json` and `thumbnails/NNNNN.jpg`.
It is read in memory and nothing in it is ever written to a path; members that are not in this list are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as pack_safetensors
from torch import Tensor

from .. import __version__, methods
from ..camera_paths.world_frame import FILE as WORLD_FRAME
from ..camera_paths.world_frame import WorldFrame, read_world_frame, world_frame_from_json
from ..errors import UserError
from ..methods.protocol import NeedsPhotos
from ..scenes.model import SceneMeta
from ..scenes.scene_json import points_from_bytes, scene_from_json, scene_to_json
from ..strict_json import as_number, as_text, parse_json
from ..tensor_files import parse_tensors
from .allowance import Allowance
from .config import RunConfig
from .photos import PHOTOS
from .runs import OpenedRun, find_run, load_weights
from .tensor_checks import first_non_finite

SUFFIX = ".nsx"
FORMAT, FORMAT_VERSION = "nerfstudio-ext scene", 1
MANIFEST, CONFIG, SCENE, POINTS, WEIGHTS = (
    "nsx.json", "config.json", "scene.json", "scene_points.npy", "weights.safetensors",
)  # fmt: skip
REQUIRED = (MANIFEST, CONFIG, SCENE, WEIGHTS)
_THUMBNAIL = re.compile(r"thumbnails/\d{5}\.jpg")
LIMITS = {
    MANIFEST: 2**24, CONFIG: 2**22, SCENE: 2**26, POINTS: 2**28, WEIGHTS: 2**34, PHOTOS: 2**34, WORLD_FRAME: 2**20,
}  # fmt: skip
"""Most bytes of each member."""
MAX_THUMBNAIL_BYTES, MAX_MEMBERS = 2**20, 20_000
_FIX = "Export the scene again with `nsx export scene RUN`"


def is_scene_file(path: Path) -> bool:
    """Whether a path means a scene file, by its name."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def write_scene_file(opened: OpenedRun, target: Path, *, overwrite: bool = False) -> Path:
    """Pack an opened run; the file appears complete or not at all.

    Paths of this machine do not travel along.

    Args:
        opened: The run at the checkpoint to pack.
        target: The file.
        overwrite: Replace an existing one.
    Raises:
        UserError: if the file exists or cannot be written.
    """
    if target.exists() and not overwrite:
        raise UserError("the file exists", where=target, fix="Choose another name or allow overwriting")
    members = _members_of(opened)
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "written_by": f"nerfstudio-ext {__version__}",
        "run": run_name(opened.path),
        "step": opened.step,
        "method": methods.method_name(opened.config.method),
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()
        },
    }
    members = {MANIFEST: json.dumps(about, indent=1).encode(), **members}
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                # The same run gives the same bytes: no times of day.
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        os.replace(partial, target)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=target, fix="Choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def open_scene_file(path: Path, *, device: torch.device | str = "cpu") -> OpenedRun:
    """Open a scene file as if it were a run; needs neither photos nor a GPU, and runs no code from it.

    Raises:
        UserError: if anything about the file is not as `write_scene_file` makes it.
    """
    with SceneArchive(path) as archive:
        config = RunConfig.from_json(_json(archive, CONFIG), where=f"{path}: {CONFIG}")
        meta = archive.meta()
        weights = _tensors(archive, WEIGHTS)
        bad = first_non_finite(weights)
        if bad:
            raise UserError(f"{bad} is not finite", where=f"{path}: {WEIGHTS}", fix=_FIX)
        with Allowance(weights, path):
            method = methods.build(config.method, meta, seed=config.train.seed, device=device)
        load_weights(method, weights, where=path)
        if isinstance(method, NeedsPhotos):
            method.load_photo_tensors(_tensors(archive, PHOTOS))
        return OpenedRun(path, config, meta, method, archive.step)


def scene_of(path: Path) -> tuple[SceneMeta, Path]:
    """The capture behind a run or a scene file, and the folder where results about it go by default."""
    if is_scene_file(path):
        with SceneArchive(path) as archive:
            return archive.meta(), path.with_suffix("")
    from ..scenes.scene_json import read_scene_json

    folder = find_run(path)
    return read_scene_json(folder / SCENE), folder


def run_name(path: Path) -> str:
    """The name of a run, also of one that was packed into a scene file."""
    if not is_scene_file(path):
        return path.name
    with SceneArchive(path) as archive:
        return archive.name


def chosen_world_frame(path: Path) -> WorldFrame | None:
    """The world frame that was chosen for a run or a scene file; None when nobody chose one.

    Raises:
        UserError: if it is damaged.
    """
    if not is_scene_file(path):
        return read_world_frame(path)
    with SceneArchive(path) as archive:
        return world_frame_from_json(_json(archive, WORLD_FRAME)) if WORLD_FRAME in archive else None


def thumbnail_bytes(path: Path, indices: Iterable[int]) -> list[bytes | None]:
    """The JPEG thumbnails of images, from a scene file; None where it has none."""
    with SceneArchive(path) as archive:
        return [archive.read(name) if (name := _thumbnail_name(i)) in archive else None for i in indices]


class SceneArchive:
    """The checked members of a scene file, read one by one.

    Attributes:
        step: Training steps behind the weights.
        name: Name of the run it was made from.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise UserError("no such scene file", where=path, fix="Check the path") from None
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise UserError(f"not a scene file ({error})", where=path, fix=_FIX) from None
        try:
            self._infos = _checked_members(self._zip, path)
            about = self._about()
            self._listed = _checked_list(about.get("files"), self._infos, path)
            self.step = int(as_number(about.get("step"), f"{path}: {MANIFEST}: step"))
            self.name = as_text(about.get("run"), f"{path}: {MANIFEST}: run")
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> SceneArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str) -> bytes:
        """The content of a member, compared with its hash."""
        if name not in self._infos:
            raise UserError(f"'{name}' is missing", where=self._path, fix=_FIX)
        data = self._raw(name)
        if name != MANIFEST and hashlib.sha256(data).hexdigest() != self._listed[name]:
            raise UserError(f"damaged: '{name}' is not what was written (checksum)", where=self._path, fix=_FIX)
        return data

    def meta(self) -> SceneMeta:
        """The capture without its pixels."""
        where = self._path / SCENE
        points = points_from_bytes(self.read(POINTS), where=self._path / POINTS) if POINTS in self else None
        return scene_from_json(_json(self, SCENE), points, where=where)

    def _raw(self, name: str) -> bytes:
        try:
            return self._zip.read(self._infos[name])
        except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"damaged: '{name}' cannot be read ({error})", where=self._path, fix=_FIX) from None

    def _about(self) -> dict[str, Any]:
        about = parse_json(_text(self._raw(MANIFEST), self._path), where=f"{self._path}: {MANIFEST}")
        if about.get("format") != FORMAT:
            raise UserError("not a scene file: another format is named in it", where=self._path, fix=_FIX)
        if about.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"scene format {about.get('format_version')!r}; this version reads {FORMAT_VERSION}",
                where=self._path,
                fix="Upgrade nerfstudio-ext",
            )
        return about


def _members_of(opened: OpenedRun) -> dict[str, bytes]:
    config = dataclasses.replace(opened.config, source=dataclasses.replace(opened.config.source, path=""))
    meta = dataclasses.replace(opened.meta, source="")
    scene, points = scene_to_json(meta)
    members = {
        CONFIG: (json.dumps(config.to_json(), indent=1, allow_nan=False) + "\n").encode(),
        SCENE: scene,
        WEIGHTS: pack_safetensors(_plain(opened.method.state_dict())),
    }
    if points is not None:
        members[POINTS] = points
    if isinstance(opened.method, NeedsPhotos):
        members[PHOTOS] = pack_safetensors(_plain(opened.method.photo_tensors()))
    is_packed = is_scene_file(opened.path)
    world = opened.path / WORLD_FRAME
    if not is_packed and world.is_file():
        members[WORLD_FRAME] = world.read_bytes()
    if is_packed:
        indices = range(len(meta.image_names))
        pictures = dict(zip(indices, thumbnail_bytes(opened.path, indices), strict=True))
    else:
        files = {i: opened.path / _thumbnail_name(i) for i in range(len(meta.image_names))}
        pictures = {i: file.read_bytes() if file.is_file() else None for i, file in files.items()}
    members |= {_thumbnail_name(i): data for i, data in pictures.items() if data is not None}
    return members


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, as safetensors wants it."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _thumbnail_name(index: int) -> str:
    return f"thumbnails/{index:05d}.jpg"


def _checked_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UserError(f"{len(infos)} members in a scene file", where=path, fix=_FIX)
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        limit = MAX_THUMBNAIL_BYTES if _THUMBNAIL.fullmatch(name) else LIMITS.get(name)
        if limit is None or name in found:
            raise UserError(f"'{name[:80]}' has no place in a scene file", where=path, fix=_FIX)
        is_plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not is_plain or info.file_size != info.compress_size or info.file_size > limit:
            raise UserError(f"'{name}' is packed, encrypted or too large", where=path, fix=_FIX)
        found[name] = info
    # Members that lie on top of each other would make a small file read as a huge one.
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise UserError("its members overlap", where=path, fix=_FIX)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise UserError(f"not a scene file: '{missing[0]}' is missing", where=path, fix=_FIX)
    return found


def _checked_list(listed: object, infos: Mapping[str, zipfile.ZipInfo], path: Path) -> dict[str, str]:
    """SHA-256 of each member, as the manifest gives it."""
    names = set(infos) - {MANIFEST}
    if not isinstance(listed, dict) or set(listed) != names:
        raise UserError("its list of members is not what it holds", where=path, fix=_FIX)
    hashes = {}
    for name, entry in listed.items():
        is_right = isinstance(entry, dict) and entry.get("bytes") == infos[name].file_size
        if not is_right:
            raise UserError(f"damaged: '{name}' has not the size that was written", where=path, fix=_FIX)
        hashes[name] = as_text(entry.get("sha256"), f"{path}: {MANIFEST}: {name}")
    return hashes


def _tensors(archive: SceneArchive, name: str) -> dict[str, Tensor]:
    return parse_tensors(archive.read(name), where=name, fix=_FIX)[0]


def _json(archive: SceneArchive, name: str) -> dict[str, Any]:
    return parse_json(_text(archive.read(name), name), where=name)


def _text(data: bytes, where: object) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text", where=where, fix=_FIX) from None
