"""`nsx stega ACTION`: provenance marks. Each action is a module of its own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

import tyro

from ..errors import UserError
from .console import Output
from .options import CommonOptions
from .parsing import did_you_mean

ACTIONS = {"embed": "stega_embed", "extract": "stega_extract", "robustness": "stega_robustness"}
"""Action -> module of this package, with `options_for` and `run` like a command's."""


@dataclass(frozen=True)
class StegaOptions(CommonOptions):
    """Options of `nsx stega` when no action is given."""

    action: tyro.conf.Positional[str | None] = None
    """embed: hide a message in a run; extract: find one in pictures; robustness: measure what a marked run's
    message survives. `nsx stega ACTION --help` shows its options."""


def options_for(argv: list[str]) -> tuple[type[Any], list[str]]:
    """The options of the action among the words, and the words without it."""
    place = next((i for i, word in enumerate(argv) if word in ACTIONS), None)
    if place is None:
        words = [word for word in argv if not word.startswith("-")]
        if words and "--help" not in argv and "-h" not in argv:
            raise UserError(
                f"unknown action '{words[0]}'{did_you_mean(words[0], ACTIONS)}", where="nsx stega",
                fix=f"Actions are: {', '.join(ACTIONS)}",
            )  # fmt: skip
        return StegaOptions, argv
    module = importlib.import_module(f".{ACTIONS[argv[place]]}", __package__)
    return cast(tuple[type[Any], list[str]], module.options_for(argv[:place] + argv[place + 1 :]))


def run(options: Any, out: Output) -> int | None:
    """Do what the action does."""
    if isinstance(options, StegaOptions):
        raise UserError("no action was given", where="nsx stega", fix=f"Actions are: {', '.join(ACTIONS)}")
    module = importlib.import_module(type(options).__module__)
    return cast("int | None", module.run(options, out))
