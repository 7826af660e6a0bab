"""Every command and launcher explains itself, quickly, and the set of names is what scripts rely on."""

from __future__ import annotations

import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nerfstudio_ext.cli.entry import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "apps").glob("*.py"))
LAUNCHERS = [
    path for path in SCRIPTS if not path.stem.endswith(("_extractor", "_gnt", "_augmented", "_lift", "_lift_prior"))
]
"""Each starts one command of `nsx`; the other scripts of apps/ make files that come with the package, or tables."""
IMPORT_BUDGET_S = 1.5
"""`nsx --help` on an idle core; torch alone takes longer to import."""
HELP_BUDGET_S = 20.0
"""A subcommand's help may import torch, on a busy machine."""


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_names_of_the_commands() -> None:
    assert list(COMMANDS) == [
        "demo",
        "doctor",
        "process",
        "train",
        "view",
        "path",
        "render",
        "export",
        "eval",
        "batch",
        "stega",
        "import",
        "corrupt",
        "bench",
    ]


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert all(len(line) <= 120 for line in text.splitlines())


def test_no_word_prints_the_overview_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: nsx COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nerfstudio-ext 0.")


def test_overview_is_quick_and_loads_neither_torch_nor_numba() -> None:
    code = "import sys, nerfstudio_ext.cli as c; c.main(['--help']); print({'torch', 'numba'} & set(sys.modules))"
    times = []
    for _ in range(3):
        began = time.perf_counter()
        result = run("-c", code)
        times.append(time.perf_counter() - began)
        assert result.stdout.endswith("set()\n"), result.stdout + result.stderr
    assert min(times) < IMPORT_BUDGET_S


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    assert main([name, "--help"]) == 0
    assert time.perf_counter() - began < HELP_BUDGET_S
    text = capsys.readouterr().out
    assert f"usage: nsx {name}" in text
    assert "--json" in text and "--debug" in text


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_help_of_a_launcher(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(path.read_text().splitlines()) <= 30
    assert "usage: nsx " in help_of(path, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("path", sorted(set(SCRIPTS) - set(LAUNCHERS)), ids=lambda path: path.name)
def test_help_of_a_script(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "usage: " in help_of(path, tmp_path, monkeypatch, capsys)


def help_of(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a file of apps/ prints when it is asked for help from another folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_launchers() -> None:
    assert [path.stem for path in LAUNCHERS] == ["batch_render", "train_on_photos", "viewer"]
