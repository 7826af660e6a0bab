"""Run folders: where a training run keeps everything it knows, and how a finished one is opened again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import torch

from .. import __version__, methods
from ..errors import UserError
from ..methods.config_json import changed_settings
from ..methods.protocol import Method
from ..renderer import HasDraft, HasLayers, RayRenderer
from ..scenes.model import SceneMeta
from ..scenes.scene_json import read_scene_json, write_scene_json
from ..strict_json import read_json
from .allowance import Allowance
from .checkpoints import chosen_checkpoint, list_checkpoints, newest_checkpoint, remove_leftovers
from .config import RunConfig
from .photos import read_photos
from .run_ending import FILE as ENDED
from .run_ending import Ending, ending_of
from .run_lock import RunLock
from .train_state import damaged_random_state

logger = logging.getLogger(__name__)
_MAX_CONFIG_BYTES = 4 << 20
_FRESH_NAMES = 1000
_SAID_CHARACTERS = 500


class Run:
    """A run folder that this process may write to. Use it as a context manager, or call `close`.

    Attributes:
        path: The folder: `outputs/<scene>/<method>/<timestamp>`.
        config: What config.json says.
        was_cut_short: The process that wrote here before ended without closing the run.
        ending: How this session ended, as far as it is known; None before anything was done.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self._lock = RunLock(path / "lock")
        self.was_cut_short = self._lock.acquire()
        self.ending: Ending | None = None
        self._log: logging.Handler | None = None
        try:
            remove_leftovers(self.checkpoints)
            self._log = _log_to(path / "log.txt")
        except OSError as error:
            self.close()
            raise UserError(
                f"the run folder cannot be written: {error.strerror}",
                where=path,
                fix="Free some space, or choose another --output-dir",
            ) from error

    @classmethod
    def create(cls, output_dir: Path, config: RunConfig, meta: SceneMeta) -> Run:
        """Make a fresh run folder below `output_dir` with its config.json and scene.json; nothing is overwritten.

        Raises:
            UserError: if the folder cannot be made or written.
        """
        parent = output_dir / _safe_name(meta.name) / methods.method_name(config.method)
        _tell_of_unclosed(parent)
        try:
            path = _fresh_folder(parent)
        except OSError as error:
            raise UserError(
                f"no run folder can be made there: {error.strerror}", where=parent, fix="Choose another --output-dir"
            ) from error
        run = cls(path, config)
        try:
            write_json(path / "config.json", config.to_json())
            write_scene_json(meta, path / "scene.json")
        except OSError as error:
            run.close()
            raise UserError(
                f"cannot be written: {error.strerror}", where=path, fix="Choose another --output-dir"
            ) from error
        logger.info("run %s: %s, %s", path, meta.kind, config.version)
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open an existing run to go on writing to it; takes the same paths as `find_run`.

        Raises:
            UserError: if it is not a run, is damaged, or another process is using it.
        """
        folder = find_run(path)
        return cls(folder, read_run_config(folder))

    def scene_meta(self) -> SceneMeta:
        """The capture as the run knows it."""
        return read_scene_json(self.path / "scene.json")

    def change_config(self, config: RunConfig) -> list[str]:
        """Take over changed settings for the rest of the run and note the differences in config.json."""
        before, now = self.config.to_json(), config.to_json()
        lines = [line for line in changed_settings(before, now) if not line.startswith("changes ")]
        if lines:
            self.config = replace(config, changes=(*self.config.changes, *lines))
            write_json(self.path / "config.json", self.config.to_json())
        return lines

    def note_changes(self, lines: Sequence[str]) -> None:
        """Note in config.json what else is not as it was when the run began, and that this version goes on with it."""
        self.config = replace(self.config, version=__version__, changes=(*self.config.changes, *lines))
        write_json(self.path / "config.json", self.config.to_json())

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file with one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    def close(self) -> None:
        """Give the folder back to others."""
        if self._log is not None:
            logging.getLogger("nerfstudio_ext").removeHandler(self._log)
            with contextlib.suppress(OSError):  # its last lines, on a full disk
                self._log.close()
            self._log = None
        self._lock.release()

    def restore_files(self, meta: SceneMeta) -> None:
        """Write what a checkpoint is worth nothing without, where somebody has removed it meanwhile.

        Raises:
            OSError: if it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "config.json").exists():
            write_json(self.path / "config.json", self.config.to_json())
        if not (self.path / "scene.json").exists():
            write_scene_json(meta, self.path / "scene.json")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self.ending or Ending("done")
        if error is not None:
            is_stop = isinstance(error, (KeyboardInterrupt, SystemExit))
            said = " ".join(f"{type(error).__name__}: {error}".split())[:_SAID_CHARACTERS]
            ending = Ending("signal" if is_stop else "failed", said.removesuffix(": "))
        is_refused = isinstance(error, UserError) and self.ending is None
        if is_refused and self.was_cut_short:
            ending = Ending("killed", "and not resumed since")
        if not is_refused or self.was_cut_short:  # what was refused leaves the note of the session before
            with contextlib.suppress(OSError):  # a full disk, or no folder any more: then nobody can know
                write_json(self.path / ENDED, ending.to_json())
        self.close()


@dataclass(frozen=True)
class OpenedRun:
    """A trained method, ready to render; nothing in its folder will be written.

    Attributes:
        path: The run folder, or the scene file.
        config: What config.json says.
        meta: The capture without its pixels.
        method: With the weights of the checkpoint.
        step: Training steps behind the weights.
        skipped: One line for each newer checkpoint that was damaged.
    """

    path: Path
    config: RunConfig
    meta: SceneMeta
    method: Method
    step: int
    skipped: tuple[str, ...] = ()

    @property
    def results(self) -> Path:
        """The folder where renders and exports go by default: the run's own, or one beside the scene file."""
        return self.path if self.path.is_dir() else self.path.with_suffix("")

    def renderer(self) -> RayRenderer:
        """The run seen through the one window of viewer and exporters."""
        device = next(iter(self.method.parameters())).device
        layers = self.method.layers() if isinstance(self.method, HasLayers) else None
        return RayRenderer(
            self.method.render_rays,
            self.meta.background,
            version=self.step,
            device=device,
            layers=layers,
            draft=self.method.draft if isinstance(self.method, HasDraft) else None,
        )


def open_run(path: Path, *, checkpoint: int | None = None, device: torch.device | str = "cpu") -> OpenedRun:
    """Load a run's newest intact checkpoint, or the one of a given step.

    Args:
        path: A run folder, a file in it, a folder that holds runs (the newest is taken), or a scene file (.nsx).
        checkpoint: Step of the checkpoint.
        device: Where the weights go.
    Raises:
        UserError: if there is no run, or no intact checkpoint, or the weights do not fit the config.
    """
    from .scene_file import is_scene_file, open_scene_file

    if is_scene_file(path):
        opened = open_scene_file(path, device=device)
        if checkpoint not in (None, opened.step):
            fix = "Leave --checkpoint out"
            raise UserError(f"it holds step {opened.step}, not {checkpoint}", where=path, fix=fix)
        return opened
    folder = find_run(path)
    config = read_run_config(folder)
    meta = read_scene_json(folder / "scene.json")
    skipped: list[str] = []
    if checkpoint is None:
        loaded, skipped = newest_checkpoint(folder / "checkpoints", with_trainer=False)
    else:
        loaded = chosen_checkpoint(folder / "checkpoints", checkpoint, with_trainer=False)
    for line in skipped:
        logger.warning("skipped a damaged checkpoint: %s Using step %d.", line, loaded.step)
    settings = folder / "config.json"
    try:
        with Allowance(loaded.weights, settings):
            method = methods.build(config.method, meta, seed=config.train.seed, device=device)
    except UserError as error:
        raise UserError(error.what, where=error.where or settings, fix=error.fix) from None
    load_weights(method, loaded.weights, where=loaded.folder)
    read_photos(method, folder)
    return OpenedRun(folder, config, meta, method, loaded.step, tuple(skipped))


def load_weights(method: Method, weights: dict[str, torch.Tensor], *, where: Path) -> None:
    """Load a method's state after comparing names, shapes and types with what the method has.

    Raises:
        UserError: naming the first tensor that does not fit.
    """
    expected = method.state_dict()
    for name, tensor in expected.items():
        found = weights.get(name)
        if found is None:
            raise UserError(f"tensor '{name}' is missing", where=where, fix="It was made by another version or method")
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise UserError(
                f"'{name}': expected {_kind(tensor)}, got {_kind(found)}",
                where=where,
                fix="It was made with other settings",
            )
    extra = sorted(weights.keys() - expected.keys())
    if extra:
        raise UserError(f"tensor '{extra[0]}' is unknown", where=where, fix="It was made by another version or method")
    with damaged_random_state(where):
        method.load_state_dict(weights)


def find_run(path: Path) -> Path:
    """The run folder meant by a path: itself, the folder of a file in it, or the newest run below it.

    Raises:
        UserError: if there is none.
    """
    if not path.exists():
        raise UserError("no such run", where=path, fix="Pass a run folder, such as outputs/SCENE/ngp/TIMESTAMP")
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, *folder.parents[:2]):
        if (candidate / "config.json").is_file() and (candidate / "scene.json").is_file():
            return candidate
    below = [p.parent for depth in ("*", "*/*", "*/*/*") for p in folder.glob(f"{depth}/config.json")]
    runs = [p for p in below if (p / "scene.json").is_file()]
    if not runs:
        raise UserError(
            "not a run folder: it has no config.json and scene.json", where=path, fix="Pass outputs/SCENE/ngp/TIMESTAMP"
        )
    return max(runs, key=lambda p: (p / "config.json").stat().st_mtime)


def read_run_config(folder: Path) -> RunConfig:
    """Read and check a run's config.json."""
    path = folder / "config.json"
    return RunConfig.from_json(read_json(path, _MAX_CONFIG_BYTES), where=str(path))


def write_json(path: Path, data: object) -> None:
    """Write JSON so that the file is always either the old one or the whole new one."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _tell_of_unclosed(parent: Path) -> None:
    """Warn when the newest run beside the one to be made was killed: its user may want that one, not a new one."""
    runs = [path for path in parent.glob("*") if (path / "config.json").is_file()]
    newest = max(runs, key=lambda path: (path / "config.json").stat().st_mtime, default=None)
    if newest is None or ending_of(newest).kind != "killed":
        return
    steps = [step for step, _ in list_checkpoints(newest / "checkpoints")]
    saved = f"step {steps[0]} of it is saved: `nsx train --resume {newest}` goes on" if steps else "nothing was saved"
    logger.warning("the last run of this scene ended without closing (%s); %s", newest, saved)


def _fresh_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%d_%H%M%S")
    for n in range(_FRESH_NAMES):
        path = parent / (stamp if n == 0 else f"{stamp}-{n + 1}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "too many runs of the same second", str(parent))


def _safe_name(name: str) -> str:
    """A folder name from a capture's name: no separators, not hidden, not empty."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-")[:80] or "scene"


def _kind(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


class _LogFile(logging.FileHandler):
    """A log that a full disk costs lines, and not a traceback per line on the user's terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the line go."""


def _log_to(path: Path) -> logging.Handler:
    handler = _LogFile(path, encoding="utf-8", errors="replace", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("nerfstudio_ext")
    root.addHandler(handler)
    if root.level == logging.NOTSET:
        root.setLevel(logging.INFO)
    return handler
