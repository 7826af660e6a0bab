"""Checkpoints: two tensor files and a manifest, in a folder that appears complete or not at all.

Neither safetensors nor any other tensor format notices a flipped bit in its data, so the manifest carries a SHA-256
of each file, a checksum of each tensor (to name the damaged one) and one of itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save as pack_safetensors
from torch import Tensor

from .. import __version__
from ..errors import UserError
from ..tensor_files import parse_tensors
from .tensor_checks import first_non_finite, tensor_checksums

FORMAT_VERSION = 1
WEIGHTS, TRAINER, MANIFEST = "weights.safetensors", "trainer.safetensors", "manifest.json"
_MAX_MANIFEST_BYTES = 4 << 20
_MAX_BYTES = 1 << 40
_NAME = re.compile(r"step-(\d{7,12})")
TEMPORARY = re.compile(r"\.tmp-step-\d{7,12}-\d+")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointNotSaved(Exception):
    """A checkpoint could not be written; the earlier ones are untouched. The text is one line for the user."""


class CheckpointDamaged(UserError):
    """A checkpoint that does not hold what was written to it."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Attributes:
        folder: Where it was read from.
        step: Training steps behind it.
        weights: The method's state.
        trainer: Optimiser, sampler, clock and counters; empty when only the weights were asked for.
    """

    folder: Path
    step: int
    weights: dict[str, Tensor]
    trainer: dict[str, Tensor]


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint of a step."""
    return f"step-{step:07d}"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything named like a checkpoint, newest first; other names are ignored."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), p) for p in folder.iterdir() if (match := _NAME.fullmatch(p.name)) and p.is_dir()]
    return sorted(found, reverse=True)


def save_checkpoint(folder: Path, step: int, weights: Mapping[str, Tensor], trainer: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint of a step so that at every moment it is either absent or complete.

    The files go to a temporary folder beside the target, are flushed to the disk, read back and compared, and then
    the folder is renamed. An intact checkpoint of the same step is left as it is.

    Args:
        folder: The run's `checkpoints` folder; made when missing.
        step: Training steps behind the weights.
        weights: The method's state; every floating-point value must be finite.
        trainer: Everything else that resuming needs.
    Returns:
        The checkpoint's folder.
    Raises:
        CheckpointNotSaved: if the weights are not finite, the disk is full, or the folder cannot be written.
    """
    bad = first_non_finite(weights)
    if bad:
        raise CheckpointNotSaved(f"step {step} is not saved: {bad} is not finite; the last good checkpoint is kept")
    target = folder / checkpoint_name(step)
    contents = {name: pack_safetensors(_packable(t)) for name, t in ((WEIGHTS, weights), (TRAINER, trainer))}
    manifest = _manifest_bytes(step, contents)
    if target.exists() and _holds(target, manifest):
        return target
    temporary = folder / f".tmp-{checkpoint_name(step)}-{os.getpid()}"
    need = sum(map(len, contents.values())) + len(manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _discard(temporary)
        temporary.mkdir()
        for name, data in {**contents, MANIFEST: manifest}.items():
            _write_durably(temporary / name, data)
        _sync_folder(temporary)
        if target.exists():
            target.rename(_free_name(folder, f"{target.name}.damaged"))
        temporary.rename(target)
        _sync_folder(folder)
    except OSError as error:
        _discard(temporary)
        raise CheckpointNotSaved(_why_not_saved(error, folder, step, need)) from error
    return target


def load_checkpoint(path: Path, *, with_trainer: bool = True) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointDamaged: if anything in it differs from what was written, or a newer format wrote it.
    """
    manifest = _read_manifest(path)
    match = _NAME.fullmatch(path.name)
    if match and int(match[1]) != manifest["step"]:
        raise CheckpointDamaged(
            f"the folder is named like step {int(match[1])} but holds step {manifest['step']}", where=path
        )
    weights = _read_tensors(path / WEIGHTS, manifest)
    bad = first_non_finite(weights)
    if bad:
        raise CheckpointDamaged(f"{bad} is not finite", where=path / WEIGHTS)
    trainer = _read_tensors(path / TRAINER, manifest) if with_trainer else {}
    return Checkpoint(path, manifest["step"], weights, trainer)


def newest_checkpoint(folder: Path, *, with_trainer: bool = True) -> tuple[Checkpoint, list[str]]:
    """Load the newest checkpoint that is intact.

    Returns:
        The checkpoint, and one line for each newer one that was skipped, with its name and the reason.
    Raises:
        UserError: if there is no intact checkpoint; the text says what was wrong with each.
    """
    skipped: list[str] = []
    for _, path in list_checkpoints(folder):
        try:
            return load_checkpoint(path, with_trainer=with_trainer), skipped
        except CheckpointDamaged as error:
            skipped.append(error.line)
    if skipped:
        raise UserError(
            f"no intact checkpoint; {len(skipped)} damaged: {' '.join(skipped)}",
            where=folder,
            fix="Train this scene again",
        )
    raise UserError("this run has no checkpoint yet", where=folder, fix="Train it with `nsx train --resume RUN`")


def chosen_checkpoint(folder: Path, step: int, *, with_trainer: bool = True) -> Checkpoint:
    """Load the checkpoint of a given step.

    Raises:
        UserError: if it is missing or damaged; the text names the intact ones.
    """
    path = folder / checkpoint_name(step)
    intact = [s for s, p in list_checkpoints(folder) if s != step and is_intact(p)]
    offer = f"Use step {intact[0]} (--checkpoint {intact[0]})" if intact else "This run has no other intact checkpoint"
    if not path.is_dir():
        raise UserError(f"this run has no checkpoint of step {step}", where=folder, fix=offer)
    try:
        return load_checkpoint(path, with_trainer=with_trainer)
    except CheckpointDamaged as error:
        raise CheckpointDamaged(error.what, where=error.where, fix=offer) from error


def is_intact(path: Path) -> bool:
    """Whether a checkpoint folder holds exactly what was written to it."""
    try:
        load_checkpoint(path)
    except CheckpointDamaged:
        return False
    return True


def discard_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: training went back and will pass them again, differently."""
    for found, path in list_checkpoints(folder):
        if found > step:
            _discard(path)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove old checkpoints so that the `keep` newest complete ones stay; only files that we write are removed.

    Complete means that the manifest is genuine and the sizes are right: hashing everything again at each save would
    double its cost.
    """
    n_complete = 0
    for _, path in list_checkpoints(folder):
        if n_complete >= keep:
            _discard(path)
        elif _is_complete(path):
            n_complete += 1


def _is_complete(path: Path) -> bool:
    try:
        files = _read_manifest(path)["files"]
        return all((path / name).stat().st_size == files[name]["bytes"] for name in (WEIGHTS, TRAINER))
    except (CheckpointDamaged, OSError, KeyError, TypeError):
        return False


def remove_leftovers(folder: Path) -> int:
    """Remove temporary folders that a killed process left behind; returns how many. Call it with the run locked."""
    if not folder.is_dir():
        return 0
    leftovers = [path for path in folder.iterdir() if TEMPORARY.fullmatch(path.name)]
    for path in leftovers:
        _discard(path)
    return len(leftovers)


def _packable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, copied only where needed: safetensors refuses views that share memory."""
    storages = [t.untyped_storage().data_ptr() for t in tensors.values()]
    packed = {}
    for (name, tensor), storage in zip(tensors.items(), storages, strict=True):
        plain = tensor.detach().cpu().contiguous()
        packed[name] = plain.clone() if storages.count(storage) > 1 else plain
    return packed


def _manifest_bytes(step: int, contents: Mapping[str, bytes]) -> bytes:
    manifest = {
        "format": "nerfstudio-ext checkpoint",
        "format_version": FORMAT_VERSION,
        "step": step,
        "written_by": __version__,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "tensors": tensor_checksums(data)}
            for name, data in contents.items()
        },
    }
    body = _canonical(manifest)
    return _canonical({**manifest, "sha256": hashlib.sha256(body).hexdigest()})


def _canonical(data: object) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    data = _read_bytes(path, _MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(data)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        digest = hashlib.sha256(_canonical(body)).hexdigest()
        is_genuine = _canonical(manifest) == data and digest == manifest.get("sha256")
    except (ValueError, AttributeError, RecursionError):
        is_genuine = False
    if not is_genuine:
        raise CheckpointDamaged("not a complete checkpoint: the manifest does not match its own checksum", where=path)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        is_newer = isinstance(version, int) and version > FORMAT_VERSION
        raise CheckpointDamaged(
            f"checkpoint format {version!r}; this version reads {FORMAT_VERSION}",
            where=path,
            fix="Upgrade nerfstudio-ext" if is_newer else "No release has written it: get the original files again",
        )
    files = manifest.get("files")
    is_complete = (
        isinstance(manifest.get("step"), int) and isinstance(files, dict) and {WEIGHTS, TRAINER} <= files.keys()
    )
    if not is_complete:
        raise CheckpointDamaged("not a checkpoint: the manifest names no step or no files", where=path)
    return manifest


def _read_tensors(path: Path, manifest: dict) -> dict[str, Tensor]:
    entry = manifest["files"][path.name]
    try:
        n_bytes, digest, tensors = entry["bytes"], entry["sha256"], entry["tensors"]
    except (KeyError, TypeError) as error:
        raise CheckpointDamaged(f"the manifest does not describe {path.name}", where=path.parent) from error
    if type(n_bytes) is not int or not 0 <= n_bytes <= _MAX_BYTES or not isinstance(tensors, dict):
        raise CheckpointDamaged(f"the manifest describes {path.name} wrongly", where=path.parent)
    data = _read_bytes(path, n_bytes)
    if len(data) != n_bytes:
        raise CheckpointDamaged(f"not a complete checkpoint (got {_mb(len(data))} of {_mb(n_bytes)} MB)", where=path)
    if hashlib.sha256(data).hexdigest() != digest:
        found = tensor_checksums(data)
        changed = [name for name in tensors if found.get(name) != tensors[name]] if len(found) == len(tensors) else []
        part = f"tensor '{changed[0]}'" if changed else "its header"
        raise CheckpointDamaged(f"damaged: {part} is not what was written (checksum)", where=path)
    try:
        return parse_tensors(data, where=path)[0]
    except UserError as error:
        raise CheckpointDamaged(error.what, where=error.where) from error


def _read_bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError as error:
        raise CheckpointDamaged("not a complete checkpoint: the file is missing", where=path) from error
    except OSError as error:
        raise CheckpointDamaged(f"cannot be read: {error.strerror}", where=path) from error


def _holds(path: Path, manifest: bytes) -> bool:
    return (path / MANIFEST).is_file() and (path / MANIFEST).read_bytes() == manifest and is_intact(path)


def _write_durably(path: Path, data: bytes) -> None:
    """Write, flush to the disk and read back; raises OSError when the disk holds something else."""
    rest = memoryview(data)
    with path.open("xb", buffering=0) as file:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    if path.read_bytes() != data:
        raise OSError(errno.EIO, f"{path.name} reads back differently")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows has no handle of a folder to flush
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(folder: Path) -> None:
    """Remove our files of a checkpoint folder; a kill meanwhile leaves nothing that looks like a checkpoint."""
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        if _NAME.fullmatch(folder.name) and {path.name for path in folder.iterdir()} <= {MANIFEST, TRAINER, WEIGHTS}:
            folder = folder.rename(temporary)
    except OSError:
        pass  # missing, or a name that is taken: then where it lies
    for name in (MANIFEST, TRAINER, WEIGHTS):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError:
            return
    try:
        folder.rmdir()
    except OSError:
        return  # missing, or it holds files that are not ours


def _free_name(folder: Path, stem: str) -> Path:
    return next(path for n in range(1, 10_000) if not (path := folder / f"{stem}-{n}").exists())


def _why_not_saved(error: OSError, folder: Path, step: int, need: int) -> str:
    if error.errno in _DISK_FULL:
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        reason = "" if error.errno == errno.ENOSPC else f" ({os.strerror(error.errno)})"
        return f"disk full{reason}: need {_mb(need)} MB, {_mb(free)} MB free; step {step} is not saved"
    return f"step {step} is not saved: {error.strerror or error} ({folder})"


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f}" if n_bytes < 10e6 else f"{n_bytes / 1e6:.0f}"
