"""Flags in any order, other spellings, and the one line an unknown word gets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tyro

from nerfstudio_ext.cli.parsing import did_you_mean, flag_arities, parse, split_words
from nerfstudio_ext.errors import UserError


@dataclass(frozen=True)
class Inner:
    log2_table: int = 19
    """Size."""
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Colour."""


@dataclass(frozen=True)
class Outer:
    source: tyro.conf.Positional[Path | None] = None
    """Input."""
    port: int = 7007
    """Port."""
    viewer: bool = True
    """Show."""
    max_steps: int | None = None
    """Steps."""
    json: str | None = None
    """Where."""
    inner: Inner = field(default_factory=Inner)


def read(*words: str) -> Outer:
    return parse(Outer, words, "try", "A test.")


def test_flat_names_of_nested_options_and_their_arity() -> None:
    assert flag_arities(Outer) == {
        "--port": 1, "--viewer": 0, "--no-viewer": 0, "--max-steps": 1, "--json": 1,
        "--log2-table": 1, "--background": 3,
    }  # fmt: skip


def test_every_order_of_words_means_the_same() -> None:
    groups = [["photos"], ["--port", "8"], ["--no-viewer"], ["--background", "0", "0.5", "1"], ["--json", "-"]]
    expected = Outer(Path("photos"), 8, False, None, "-", Inner(19, (0.0, 0.5, 1.0)))
    for order in itertools.permutations(groups):
        assert read(*itertools.chain.from_iterable(order)) == expected


@pytest.mark.parametrize(
    ("words", "same_as"),
    [
        ("--data photos", "photos"),
        ("--data=photos", "photos"),
        ("--load-config run/config.json", "run/config.json"),
        ("--max-num-iterations 5", "--max-steps 5"),
        ("--max_steps=5", "--max-steps 5"),
        ("--viewer.websocket-port 9", "--port 9"),
        ("--viewer.websocket-port=9", "--port=9"),
    ],
)
def test_other_spellings(words: str, same_as: str) -> None:
    assert read(*words.split()) == read(*same_as.split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--prt 3", "nsx try: unknown option '--prt'. Did you mean '--port'? `nsx try --help` shows all options."),
        ("--zzzzz", "nsx try: unknown option '--zzzzz'. `nsx try --help` shows all options."),
        ("a b", "nsx try: 'b' is one word too many. `nsx try --help` shows the usage."),
        (
            "--port x",
            "nsx try: error parsing --port: invalid literal for int() with base 10: 'x'. "
            "`nsx try --help` shows all options.",
        ),
        (
            "--port",
            "nsx try: missing value for argument '--port'. Expected 1 values. `nsx try --help` shows all options.",
        ),
    ],
)
def test_one_line_for_words_that_cannot_be_read(words: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        read(*words.split())
    assert caught.value.line == line


def test_help_wins_over_surplus_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("a", "b", "--help")
    assert stop.value.code == 0
    assert "--log2-table INT" in capsys.readouterr().out


def test_values_are_not_taken_for_words() -> None:
    assert split_words(Outer, ["--json", "out.json", "in"], "try") == (["in"], ["--json", "out.json"])


def test_far_words_get_no_suggestion() -> None:
    assert did_you_mean("xyzzy", ["train", "view"]) == ""
    assert did_you_mean("trian", ["train", "view"]) == ". Did you mean 'train'?"
