"""`nsx export KIND RUN`: points, meshes, cameras and scene files. Each kind is a module of its own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions
from .parsing import did_you_mean

KINDS = {"points": "export_points", "mesh": "export_mesh", "cameras": "export_cameras", "scene": "export_scene"}
"""Kind -> module of this package, with `options_for` and `run` like a command's."""


@dataclass(frozen=True)
class ExportOptions(CommonOptions):
    """Options of `nsx export` when no kind is given."""

    kind: tyro.conf.Positional[str | None] = None
    """points: a coloured point cloud (.ply); mesh: a surface with colours or a texture (.ply, .glb, .obj); cameras:
    transforms.json or a COLMAP model; scene: everything in one file (.nsx) that opens on any machine.
    `nsx export KIND --help` shows its options."""


def options_for(argv: list[str]) -> tuple[type[Any], list[str]]:
    """The options of the kind among the words, and the words without it."""
    place = next((i for i, word in enumerate(argv) if word in KINDS), None)
    if place is None:
        words = [word for word in argv if not word.startswith("-")]
        if words and "--help" not in argv and "-h" not in argv:
            raise UserError(
                f"unknown kind '{words[0]}'{did_you_mean(words[0], KINDS)}", where="nsx export",
                fix=f"Kinds are: {', '.join(KINDS)}",
            )  # fmt: skip
        return ExportOptions, argv
    module = importlib.import_module(f".{KINDS[argv[place]]}", __package__)
    return cast(tuple[type[Any], list[str]], module.options_for(argv[:place] + argv[place + 1 :]))


def run(options: Any, out: Output) -> int | None:
    """Do what the kind does."""
    if isinstance(options, ExportOptions):
        raise UserError("no kind was given", where="nsx export", fix=f"Kinds are: {', '.join(KINDS)}")
    module = importlib.import_module(type(options).__module__)
    return cast("int | None", module.run(options, out))
