"""From the options that a manifest gives a step to the words of its command, checked before anything is done."""

from __future__ import annotations

import hashlib
import importlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .parsing import did_you_mean, flag_arities, parse

if TYPE_CHECKING:
    from ..cluster.batch_work import CapturePlan
    from ..cluster.manifest import CaptureJob, Manifest, StepName

OURS = {
    "process": {"output_dir", "overwrite"},
    "train": {"output_dir", "scene_name", "resume", "viewer", "keep_viewer", "preview", "port", "host", "allow_host"},
    "eval": {"output_dir", "capture", "method"},
    "render": {"overwrite", "ray", "ray_workers", "shard"},
    "embed": {"output_dir", "capture", "key", "verify"},
}
"""Options that the batch chooses itself."""
COMMON = {"json", "debug"}
_MODULES = {"process": "process", "train": "train", "eval": "evaluate", "render": "render", "embed": "stega_embed"}


def capture_plan(job: CaptureJob, manifest: Manifest, threads: int) -> CapturePlan:
    """The commands for one capture.

    Raises:
        UserError: if the input is missing, or a step has an option that its command does not take.
    """
    from ..cluster.batch_work import CAPTURE, RUN, CapturePlan, StepPlan

    where = f"{manifest.path.name}: {job.name}"
    folder = manifest.output_dir / job.name
    if not job.source.exists():
        raise UserError(f"the input '{job.source}' is not there", where=where, fix="Correct its path")
    source = str(job.source.resolve())
    beginnings: dict[StepName, tuple[list[str], str, StepName | None]] = {
        "process": (["process", source, "--output-dir", str(folder / "capture"), "--overwrite"], "transforms", None),
        "train": (["train", CAPTURE, "--output-dir", str(folder / "runs"), "--no-viewer"], "run", None),
        "eval": (["eval", RUN], "pictures", "train"),
        "render": (["render", RUN, "--overwrite"], "output", "train"),
        "embed": (["stega", "embed", RUN, "--output-dir", str(folder / "marked")], "run", "train"),
    }
    has_poses = not _needs_poses(job.source)
    plans: list[StepPlan] = []
    for name, given in job.steps.items():
        if name == "process" and has_poses:
            continue
        words, result, needs = beginnings[name]
        if needs is not None and needs not in job.steps:
            raise UserError(f"{name} without {needs}", where=where, fix=f"Switch {needs} on, or {name} off")
        if name == "train" and any(plan.name == "process" for plan in plans):
            needs = "process"
        own = _words(name, dict(given), job, folder, manifest.path.parent, f"{where}: {name}")
        # The method of a training comes first: a capture may have a method's name.
        words = [words[0], own[0], *words[1:], *own[1:]] if name == "train" else [*words, *own]
        plans.append(StepPlan(name, tuple(words), result, needs))
    return CapturePlan(job.name, str(folder), source, _stamp(job.source), tuple(plans), threads)


def _words(name: StepName, given: dict[str, Any], job: CaptureJob, folder: Path, base: Path, where: str) -> list[str]:
    """The words for the options of a step, after they were parsed once as the command will parse them."""
    words: list[str] = []
    if name == "train":
        from ..methods import known_methods

        methods = [entry.name for entry in known_methods().values() if entry.is_trainable]
        method = given.pop("method", "ngp")
        if method not in methods:
            raise UserError(f"{method!r} is no method", where=where, fix=f"Methods are: {', '.join(methods)}")
        words.append(method)
        if "eval" in job.steps:
            given.setdefault("max_images", 0)  # compared with all held-out photos in a step of its own
    if name == "render":
        given["output_path"] = str(_film(given, folder, where))
        spec = base / str(given.get("path", ""))
        if "path" in given and spec.exists():
            given["path"] = str(spec)
    module = importlib.import_module(f".{_MODULES[name]}", __package__)
    kind, _ = module.options_for([*words])
    arities = flag_arities(kind)
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}"
        if flag not in arities or key in OURS[name] | COMMON:
            known = [f[2:].replace("-", "_") for f in arities]
            about = "is chosen by the batch" if flag in arities else f"is unknown{did_you_mean(key, known)}"
            if key == "key":
                about = "does not belong into a file that others read; use key_file, or the variable NSX_STEGA_KEY"
            raise UserError(f"the option '{key}' {about}", where=where, fix="Take it out or correct it")
        words += _flag(flag, value, arities[flag], key in _path_options(kind), base, f"{where}: {key}")
    command = "stega embed" if name == "embed" else name
    try:
        options_type, rest = module.options_for([*words])
        parse(options_type, rest, command, "")
    except UserError as error:
        raise UserError(error.what, where=where, fix=f"`nsx {command} --help` shows all options") from None
    return words


def _flag(flag: str, value: object, arity: int, is_path: bool, base: Path, where: str) -> list[str]:
    if value is None:
        return []
    if arity == 0:
        if not isinstance(value, bool):
            raise UserError(f"{value!r} is neither true nor false", where=where, fix="Write true or false")
        return [flag if value else f"--no-{flag[2:]}"]
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in values):
        raise UserError(
            f"{value!r} is no text and no number", where=where, fix="Write a text, a number or a list of them"
        )
    texts = [str(base / str(item)) if is_path else str(item) for item in values]
    # The value sticks to its flag, so that one which begins with a dash is none.
    return [f"{flag}={text}" for text in texts] if arity == 1 else [flag, *texts]


def _path_options(kind: type) -> set[str]:
    """Options that name files."""
    hints = typing.get_type_hints(kind)
    return {name for name, hint in hints.items() if Path in (hint, *typing.get_args(hint))}


def _film(given: Mapping[str, Any], folder: Path, where: str) -> Path:
    """Where a render goes: inside the capture's folder."""
    spec = str(given.get("path", "orbit"))
    named = given.get("output_path", f"{Path(spec).stem}.mp4")
    target = (folder / str(named)).resolve()
    if not isinstance(named, str) or not target.is_relative_to(folder.resolve()) or target == folder.resolve():
        raise UserError(
            f"{named!r} leaves the folder of the capture", where=where, fix="Give only a name, as orbit.mp4"
        )
    return folder / named


def _needs_poses(source: Path) -> bool:
    from ..scenes import detect_kind

    return detect_kind(source) in ("photos", "video")


def _stamp(source: Path) -> str:
    """Changes when the files of an input change."""
    from ..scenes.photos import ProcessOptions
    from .capture import input_stamp

    text = json.dumps(input_stamp(source, ProcessOptions()), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
