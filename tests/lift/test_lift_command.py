"""`nsx train lift PHOTO` with tiny models of random weights: every stage, its files, going on, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nerfstudio_ext.cli import main
from nerfstudio_ext.methods.lift_config import LiftConfig
from nerfstudio_ext.stages.lift.refine import RefineSettings, refined_config
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import read_run_config

from .photos import write_mask, write_rgb, write_rgba

SMALL = (
    "--no-viewer", "--side", "16", "--views", "1", "--prepared-side", "64", "--depth-model", "none",
    "--steps-per-log", "1",
)  # fmt: skip


def lift(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[dict, str]:
    capsys.readouterr()
    assert main(["train", "lift", *map(str, words), *SMALL, "--json", "-"]) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    assert captured.out.count("\n") == (1 if code == 0 else 0)
    return json.loads(captured.out) if captured.out else {}, captured.err


def weights_of(run: str | Path) -> bytes:
    newest = max(Path(run).glob("checkpoints/step-*"))
    return (newest / "weights.safetensors").read_bytes()


def test_one_command_does_all_stages(tiny_model, tmp_path: Path, capsys):
    photo = write_rgba(tmp_path / "egg.png")
    clip = ("--clip-model", tiny_model("clip"))
    result, said = lift(
        capsys, photo, "--prior", "sd", "--prior-model", tiny_model("stable_diffusion"), "--text", "egg", *clip,
        "--invert", "--invert-steps", "2", "--steps", "3", "--refine", "--refine-steps", "2",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    for words in ("licence", "estimated", "knows", "guessed", "Refining at 32 pixels"):
        assert words in said
    prepared = tmp_path / "out" / "egg" / "prepared"
    assert Path(result["prepared"]) == prepared
    pictures = [prepared / "prepared.png", prepared / "word" / "inverted.png"]
    runs = [Path(result["lifted"]), Path(result["run"])]
    assert runs[0] != runs[1]
    for path in pictures + [run / "lifted.png" for run in runs]:
        with Image.open(path) as picture:
            assert picture.width > 2 * picture.height - 100
    first, second = (read_run_config(run) for run in runs)
    assert first.method.text == "<object> egg" and Path(first.method.embedding).is_file()
    assert (first.method.side, second.method.side) == (16, 32) and second.method.steps == 5
    assert any("refined from" in line for line in second.changes)
    assert sorted(p.name for p in runs[1].glob("checkpoints/step-*"))[-1] == "step-0000005"
    assert json.loads((runs[0] / "prior.json").read_text())["prior"] == "sd"


def test_a_stopped_lifting_goes_on_to_the_same_bits(tiny_model, tmp_path: Path, capsys):
    photo = write_rgba(tmp_path / "egg.png")
    words = [photo, "--prior", "view", "--prior-model", tiny_model("view_model"), "--steps", "4"]
    whole, _ = lift(capsys, *words, "--output-dir", tmp_path / "a")
    part, said = lift(capsys, *words, "--output-dir", tmp_path / "b", "--max-steps", "2")
    assert "step-0000002" in {p.name for p in Path(part["run"]).glob("checkpoints/*")} and "estimated" in said
    assert main(["train", "--resume", part["run"], "--max-steps", "4", "--no-viewer"]) == 0
    assert weights_of(part["run"]) == weights_of(whole["run"])
    _, said = lift(capsys, *words, "--output-dir", tmp_path / "a", "--max-steps", "1")
    assert "prepared before" in said
    changed, said = lift(capsys, *words, "--output-dir", tmp_path / "a", "--max-steps", "1", "--elevation", "40")
    assert "prepared before" not in said and Path(changed["prepared"]).name == "prepared-2"


def test_without_a_prior_the_back_is_said_to_be_undefined(tmp_path: Path, capsys):
    words = [write_rgba(tmp_path / "egg.png"), "--prior", "null", "--steps", "2", "--output-dir", tmp_path / "out"]
    result, said = lift(capsys, *words)
    assert "undefined" in said and result["prior"] == "null"


REFUSED = {
    "two photos": (lambda p: [write_rgba(p / "a.png"), write_rgba(p / "b.png")], "lifting takes one photo, 2"),
    "no photo": (lambda p: [], "no photo"),
    "missing": (lambda p: [p / "none.png"], "no such file"),
    "full": (lambda p: [write_rgb(p / "a.png"), "--mask", write_mask(p / "m.png", write_all())], "covers the whole"),
    "offline": (lambda p: [write_rgba(p / "a.png"), "--prior", "sd", "--text", "egg"], "hf download|pip install"),
    "no such prior": (lambda p: [write_rgba(p / "a.png"), "--prior", "st"], "prior"),
    "word without sd": (lambda p: [write_rgba(p / "a.png"), "--prior", "null", "--invert"], "Stable Diffusion"),
    "bad elevation": (lambda p: [write_rgba(p / "a.png"), "--elevation", "100"], "100 is out of range"),
}


def write_all():
    from .photos import egg_mask

    return egg_mask() | True


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_line(name: str, tmp_path: Path, capsys):
    import re

    make, message = REFUSED[name]
    _, said = lift(capsys, *make(tmp_path), "--output-dir", tmp_path / "out", code=2)
    line = said.strip().splitlines()[-1]
    assert line.startswith("error: ") and re.search(message, line), said
    assert not list((tmp_path / "out").glob("*/lift/*"))


def test_refining_goes_on_late_in_a_longer_schedule():
    config = RunConfig(method=LiftConfig(steps=300, side=32).settled())
    refined = refined_config(config, 300, RefineSettings(), "parent")
    assert refined.method.side == 64 and refined.method.steps == refined.train.max_steps == 500
    assert refined.method.hash == config.method.hash  # the weights must fit
    with pytest.raises(Exception, match="fewer than"):
        refined_config(config, 300, RefineSettings(refine_side=16), "parent")
