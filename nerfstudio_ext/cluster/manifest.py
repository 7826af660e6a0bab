"""What a batch shall do: a JSON file that names captures and, for each, the steps with their options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..errors import UserError
from ..strict_json import read_json

SCHEMA = 1
MAX_BYTES = 4 << 20
MAX_CAPTURES = 10_000
StepName = Literal["process", "train", "eval", "render", "embed"]
STEPS: tuple[StepName, ...] = get_args(StepName)
"""In the order in which they are done."""
ON_BY_DEFAULT = {"process": True, "train": True, "eval": True, "render": True, "embed": False}
_NAME = re.compile(r"[\w.+-]{1,80}")

Options = Mapping[str, Any]


@dataclass(frozen=True)
class CaptureJob:
    """One capture of a batch.

    Attributes:
        name: Names its folder; no other capture has it.
        source: Photos, video or posed capture.
        steps: Options of each step that is wanted, by the names that the command line has, in order.
    """

    name: str
    source: Path
    steps: Mapping[StepName, Options] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Attributes:
        path: The file.
        output_dir: Where everything goes, a folder per capture.
        captures: What to do, in order.
    """

    path: Path
    output_dir: Path
    captures: tuple[CaptureJob, ...]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    `{"schema": 1, "output_dir": DIR, "defaults": STEPS, "captures": [{"input": PATH, "name": NAME, STEPS}, ...]}`:
    STEPS gives any of process, train, eval, render and embed `true`, `false` or an object of options as the command
    of that name takes them, with `_` or `-`: `"train": {"method": "ngp", "max_steps": 2000}`. Options of a capture go
    before those of `defaults`. All steps but embed are on when nothing is said. Paths are relative to the manifest.

    Raises:
        UserError: for anything else, with the place.
    """
    data = read_json(path, MAX_BYTES)
    where = path.name
    _only(data, {"schema", "output_dir", "defaults", "captures"}, where)
    if data.get("schema") != SCHEMA:
        raise UserError(f"schema {data.get('schema')!r}", where=where, fix=f'Write "schema": {SCHEMA}')
    base = path.resolve().parent
    defaults = _steps_of(data.get("defaults", {}), f"{where}: defaults")
    listed = data.get("captures")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_CAPTURES:
        fix = 'Write "captures": [{"input": "FOLDER_OF_PHOTOS"}]'
        raise UserError(f"'captures' is no list of 1 to {MAX_CAPTURES} captures", where=where, fix=fix)
    captures: dict[str, CaptureJob] = {}
    for i, entry in enumerate(listed):
        place = f"{where}: captures[{i}]"
        job = _capture(entry, defaults, base, place)
        # Folders may lie where a and A are one.
        if job.name.lower() in (name.lower() for name in captures):
            raise UserError(f"the name '{job.name}' is taken", where=place, fix='Give it another "name"')
        captures[job.name] = job
    output = data.get("output_dir", f"{path.stem}-results")
    if not isinstance(output, str) or not output.strip() or "\0" in output:
        raise UserError("'output_dir' is no path", where=where, fix="Write it as a text")
    return Manifest(path.resolve(), base / output, tuple(captures.values()))


def _capture(entry: object, defaults: Mapping[StepName, Options | None], base: Path, where: str) -> CaptureJob:
    if not isinstance(entry, Mapping):
        raise UserError("no object", where=where, fix='Write it as {"input": "FOLDER_OF_PHOTOS"}')
    source = entry.get("input")
    if not isinstance(source, str) or not source.strip() or "\0" in source:
        raise UserError("'input' is missing or no path", where=where, fix='Write "input": "FOLDER_OF_PHOTOS"')
    _only(entry, {"input", "name", *STEPS}, where)
    own = _steps_of({key: value for key, value in entry.items() if key not in ("input", "name")}, where)
    steps: dict[StepName, Options] = {}
    for name in STEPS:
        given = own.get(name, defaults.get(name, {} if ON_BY_DEFAULT[name] else None))
        if given is not None:
            steps[name] = {**(defaults.get(name) or {}), **given}
    name = entry.get("name", _name_of(base / source))
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.strip(".") == "":
        fix = 'Give it a "name" of letters, digits and . _ + -'
        raise UserError(f"{name!r} cannot name a folder", where=where, fix=fix)
    return CaptureJob(name, base / source, steps)


def _steps_of(given: object, where: str) -> dict[StepName, Options | None]:
    """Options of each step that something is said about; None where it is switched off."""
    if not isinstance(given, Mapping):
        raise UserError("no object", where=where, fix='Write it as {"train": {"max_steps": 2000}}')
    _only(given, set(STEPS), where)
    found: dict[StepName, Options | None] = {}
    for name in STEPS:
        if name not in given:
            continue
        value = given[name]
        if isinstance(value, bool):
            found[name] = {} if value else None
        elif isinstance(value, Mapping):
            found[name] = {key.replace("-", "_"): option for key, option in value.items()}
        else:
            fix = "Write true, false, or an object of options"
            raise UserError(f"{value!r} says nothing about a step", where=f"{where}.{name}", fix=fix)
    return found


def _only(data: Mapping[str, object], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"unknown key '{key}'", where=where, fix=f"Known: {', '.join(sorted(known))}")


def _name_of(source: Path) -> str:
    """A folder name from the input's: `fox` of photos/fox, photos/fox/images and videos/fox.mp4."""
    path = source.resolve()
    while path.name.lower() in ("images", "photos", "input") and path.parent.name:
        path = path.parent
    return re.sub(r"[^\w.+-]+", "-", path.stem if path.suffix and not path.is_dir() else path.name).strip(".-")[:80]
