"""From words to option dataclasses: flags in any order, one-line errors, "did you mean".

tyro turns the dataclasses into flags and help; this module only sorts the words first, so that positional
words may stand anywhere between flags and an unknown word gets one line instead of a page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, Union

import tyro

from ..errors import UserError

Options = TypeVar("Options")

OTHER_SPELLINGS = {
    "--camera-path-filename": "--path",
    "--rendered-output-names": "--outputs",
    "--max-num-iterations": "--max-steps",
    "--max-num-images": "--max-images",
    "--viewer.websocket-port": "--port",
    "--websocket-port": "--port",
    "--viewer.websocket-host": "--host",
    "--websocket-host": "--host",
    "--experiment-name": "--scene-name",
}
"""nerfstudio's names of options that mean the same as ours."""
SPELLED_AS_WORDS = ("--data", "--load-config")
"""nerfstudio's options for what is a plain word here: the input, and the run."""


def parse(options: type[Options], argv: Sequence[str], command: str, summary: str) -> Options:
    """Parse the words after `nsx COMMAND` into an instance of the dataclass `options`.

    Raises:
        UserError: for an unknown flag, a surplus word or a value that does not fit its flag.
        SystemExit: after printing help, with code 0.
    """
    words, flags = split_words(options, argv, command)
    n_words = sum(_is_positional(hint) for hint in _hints(options).values())
    if len(words) > n_words and "--help" not in flags:
        raise UserError(
            f"'{words[n_words]}' is one word too many",
            where=f"nsx {command}",
            fix=f"`nsx {command} --help` shows the usage",
        )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                options,
                prog=f"nsx {command}",
                description=summary,
                args=[*words, *flags],
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(
            _first_sentences(errors.getvalue()), where=f"nsx {command}", fix=f"`nsx {command} --help` shows all options"
        ) from None


def split_words(options: type, argv: Sequence[str], command: str) -> tuple[list[str], list[str]]:
    """Separate positional words from flags with their values.

    Raises:
        UserError: for a flag that `options` does not have.
    """
    arities = flag_arities(options)
    words: list[str] = []
    flags: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            flags.append("--help")
            continue
        if not word.startswith("--") or word == "--":
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        if name in SPELLED_AS_WORDS:
            words += [value] if equals else rest[:1]
            del rest[: 0 if equals else 1]
            continue
        ours = OTHER_SPELLINGS.get(name.replace("_", "-"), name.replace("_", "-"))
        arity = arities.get(ours)
        if arity is None:
            raise UserError(
                f"unknown option '{name}'{did_you_mean(name, arities)}",
                where=f"nsx {command}",
                fix=f"`nsx {command} --help` shows all options",
            )
        n_values = 0 if equals else arity
        flags += [ours + equals + value, *rest[:n_values]]
        del rest[:n_values]
    return words, flags


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`. Did you mean 'X'?` for the nearest known word, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f". Did you mean '{near[0]}'?" if near else ""


def flag_arities(options: type) -> dict[str, int]:
    """Every flag of an options dataclass (nested ones are flat), and how many values follow it."""
    arities: dict[str, int] = {}
    for name, hint in _hints(options).items():
        if _is_positional(hint):
            continue
        kind, aliases = _plain(hint)
        if dataclasses.is_dataclass(kind):
            arities.update(flag_arities(typing.cast(type, kind)))
            continue
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            arities["--no-" + flag[2:]] = 0
        arities.update({spelling: _arity(kind) for spelling in (flag, *aliases)})
    return arities


def _hints(options: type) -> dict[str, Any]:
    hints = typing.get_type_hints(options, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(options) if f.init}


def _is_positional(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and tyro.conf.Positional in hint.__metadata__


def _plain(hint: Any) -> tuple[Any, tuple[str, ...]]:
    """The bare type of a hint without `Annotated` and `None`, and the flag's other spellings."""
    aliases: tuple[str, ...] = ()
    if typing.get_origin(hint) is Annotated:
        for note in hint.__metadata__:
            aliases += tuple(getattr(note, "aliases", None) or ())
        hint = hint.__origin__
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        hint = members[0] if len(members) == 1 else hint
    return hint, aliases


def _arity(kind: Any) -> int:
    if kind is bool:
        return 0
    members = typing.get_args(kind) if typing.get_origin(kind) is tuple else ()
    # A tuple of any length is a flag that may be given several times, with one value each.
    return 1 if Ellipsis in members else len(members) or 1


def _first_sentences(box: str) -> str:
    """The message of a boxed parser error, on one line: what stands between its title and the next rule.

    The frame is drawn with ASCII characters where the terminal has no others; there a rule follows the title.
    """
    body: list[str] = []
    for line in (line.strip("│ ") for line in box.splitlines()[1:]):
        is_rule = not line.strip("─-")
        if is_rule and body:
            break
        if not is_rule:
            body.append(line)
    text = re.sub(r"\s+", " ", " ".join(body)).strip() or "the options could not be read"
    mismatch = r"no type matching (?:\{None\}\|)?(\S+) could be .* from \['(.*)'\].*"
    text = re.sub(mismatch, r"expected \1, got '\2'", text)
    return text[0].lower() + text[1:].rstrip(".")
