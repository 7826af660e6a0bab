"""`nsx batch`: what a manifest may say, what is done again and what is not, and that one bad capture harms no other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nerfstudio_ext.cli import main
from nerfstudio_ext.cli.batch_plan import capture_plan
from nerfstudio_ext.cluster import batch_work
from nerfstudio_ext.cluster.batch_ray import rows_from_ray
from nerfstudio_ext.cluster.batch_work import CapturePlan, StepPlan, work_through
from nerfstudio_ext.cluster.manifest import read_manifest
from nerfstudio_ext.errors import UserError
from tests.cli.tiny_capture import TINY_METHOD, write_capture

Capture = pytest.CaptureFixture[str]
TINY = {flag[2:].replace("-", "_"): value for flag, value in zip(TINY_METHOD[::2], TINY_METHOD[1::2], strict=True)}
SETTINGS = {"train": {"max_steps": 30, **TINY}, "render": {"seconds": 1, "fps": 3, "size": "24x18"}}


def write(folder: Path, *captures: object, **more: object) -> Path:
    file = folder / "all.json"
    file.write_text(json.dumps({"schema": 1, "defaults": SETTINGS, "captures": captures, **more}))
    return file


class Commands:
    """Stands for `nsx`: notes the words, makes what a real command would leave, fails or stops where it is told to."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.codes: dict[str, int] = {}
        self.lock = threading.Lock()

    def names(self) -> list[str]:
        return [" ".join(words[:2]) if words[0] == "stega" else words[0] for words in self.words]

    def __call__(
        self, plan: CapturePlan, step: StepPlan, words: list[str], should_stop: Callable[[], bool]
    ) -> tuple[int, dict[str, Any], str]:
        with self.lock:
            self.words.append(words)
        folder = Path(plan.folder)
        code = self.codes.get(f"{plan.name} {step.name}", 0)
        if step.name == "train":
            run = folder / "runs" / plan.name / "ngp" / f"run{len(self.words)}"
            if words[1] == "--resume":
                run = Path(words[2])
            (run / "checkpoints" / "step-0000010").mkdir(parents=True, exist_ok=True)
            (run / "config.json").write_text("{}")
            result: dict[str, Any] = {"run": str(run), "steps": 30}
        else:
            target = folder / step.name
            target.mkdir(exist_ok=True)
            result = {step.result: str(target), "psnr": 31.5, "ssim": 0.9, "frames": 3}
        return (0, result, "") if code == 0 else (code, {}, f"{step.name} cannot be done. Mend it.")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    stand_in = Commands()
    monkeypatch.setattr(batch_work, "_command", stand_in)
    return stand_in


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    """A folder with two captures."""
    for name in ("a", "b"):
        write_capture(tmp_path / name)
    return tmp_path


def test_a_second_start_does_nothing_again(balls: Path, commands: Commands, capsys: Capture) -> None:
    manifest = write(balls, {"input": "a"}, {"input": "b", "embed": {"payload_id": "aabbccddeeff"}})
    assert main(["batch", str(manifest), "--json", "-"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert commands.names() == ["train", "eval", "render", "train", "eval", "render", "stega embed"]
    assert first["done"] == 2 and Path(first["report"]).is_file()
    assert main(["batch", str(manifest), "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(commands.words) == 7 and again["done"] == 2
    assert all(step["is_old"] and step["result"] for capture in again["captures"] for step in capture["steps"])
    # A changed option does its step again, and what rests on it; nothing of the other capture.
    write(balls, {"input": "a", "train": {"max_steps": 31}}, {"input": "b", "embed": {"payload_id": "aabbccddeeff"}})
    assert main(["batch", str(manifest)]) == 0
    assert commands.names()[7:] == ["train", "eval", "render"]
    # So do changed photos, and results that are gone.
    (balls / "b" / "images" / "extra.txt").write_text("more")
    assert main(["batch", str(manifest)]) == 0
    assert commands.names()[10:] == ["train", "eval", "render", "stega embed"]
    (balls / "all-results" / "a" / "eval").rmdir()
    assert main(["batch", str(manifest)]) == 0
    assert commands.names()[14:] == ["eval"]


def test_one_bad_capture_does_not_stop_the_others(balls: Path, commands: Commands, capsys: Capture) -> None:
    commands.codes["a train"] = 2
    manifest = write(balls, {"input": "a"}, {"input": "b"})
    assert main(["batch", str(manifest), "--json", "-"]) == 2
    said = capsys.readouterr()
    states = [[step["state"] for step in capture["steps"]] for capture in json.loads(said.out)["captures"]]
    assert states == [["failed", "skipped", "skipped"], ["done", "done", "done"]]
    assert "train failed: train cannot be done. Mend it." in said.err and "31.50" in said.err
    assert "1 of 2 captures done" in said.err
    page = (balls / "all-results" / "report.html").read_text()
    assert "train cannot be done. Mend it." in page and "31.50 dB" in page and "1 of 2" in page
    commands.codes.clear()
    assert main(["batch", str(manifest)]) == 0
    assert commands.names() == ["train", "train", "eval", "render", "train", "eval", "render"]


def test_what_fails_beside_others_does_not_hold_them_up(balls: Path, commands: Commands) -> None:
    commands.codes["a eval"] = 1
    assert main(["batch", str(write(balls, {"input": "a"}))]) == 1
    assert commands.names() == ["train", "eval", "render"]


def test_fail_fast_begins_nothing_more(balls: Path, commands: Commands) -> None:
    commands.codes["a train"] = 2
    assert main(["batch", str(write(balls, {"input": "a"}, {"input": "b"})), "--fail-fast"]) == 2
    assert commands.names() == ["train"]


def test_an_interrupted_training_is_resumed(balls: Path, commands: Commands) -> None:
    commands.codes["a train"] = 143
    manifest = write(balls, {"input": "a"})
    main(["batch", str(manifest)])
    commands.codes.clear()
    assert main(["batch", str(manifest)]) == 0
    assert [words[:2] for words in commands.words][1] == ["train", "--resume"]
    assert commands.words[1][2].endswith("run1") and commands.words[2][:2] == ["eval", commands.words[1][2]]


def test_an_interrupted_training_with_other_settings_begins_anew(balls: Path, commands: Commands) -> None:
    commands.codes["a train"] = 143
    main(["batch", str(write(balls, {"input": "a"}))])
    commands.codes.clear()
    assert main(["batch", str(write(balls, {"input": "a", "train": {"lr": 0.02}}))]) == 0
    assert "--resume" not in commands.words[1] and "--lr=0.02" in commands.words[1]


def test_several_captures_at_once_end_in_the_order_of_the_manifest(
    balls: Path, commands: Commands, capsys: Capture
) -> None:
    manifest = write(balls, *({"input": "ab"[i % 2], "name": f"n{i}"} for i in range(6)))
    assert main(["batch", str(manifest), "--jobs", "3", "--json", "-"]) == 0
    captures = json.loads(capsys.readouterr().out)["captures"]
    assert [capture["name"] for capture in captures] == [f"n{i}" for i in range(6)]


def test_photos_get_poses_first(tmp_path: Path, commands: Commands) -> None:
    write_capture(tmp_path / "whole")
    (tmp_path / "whole" / "images").rename(tmp_path / "photos")
    job = read_manifest(write(tmp_path, {"input": "photos", "name": "p"}))
    plan = capture_plan(job.captures[0], job, 1)
    assert [step.name for step in plan.steps] == ["process", "train", "eval", "render"]
    row = work_through(plan, lambda *_: None, lambda: False)
    assert row.state == "done" and row.result("train")["steps"] == 30
    assert commands.words[1][2] == str(tmp_path / "all-results" / "p")  # the folder of transforms.json


def test_a_damaged_state_only_costs_time(balls: Path, commands: Commands) -> None:
    manifest = write(balls, {"input": "a"})
    assert main(["batch", str(manifest)]) == 0
    (balls / "all-results" / "a" / "state.json").write_text('{"steps": {"train": {"fing')
    assert main(["batch", str(manifest)]) == 0
    assert len(commands.words) == 6


@pytest.mark.parametrize(
    ("captures", "more", "line"),
    [
        ([], {}, "'captures' is no list"),
        ([{"input": "a"}], {"schema": 2}, 'schema 2. Write "schema": 1'),
        ([{"input": "a"}], {"capturs": []}, "unknown key 'capturs'"),
        (["a"], {}, "captures[0]: no object"),
        ([{"name": "a"}], {}, "'input' is missing"),
        ([{"input": "nowhere"}], {}, "is not there. Correct its path"),
        ([{"input": "a"}, {"input": "b", "name": "A"}], {}, "captures[1]: the name 'A' is taken"),
        ([{"input": "a", "name": "../x"}], {}, "'../x' cannot name a folder"),
        ([{"input": "a", "name": ".."}], {}, "'..' cannot name a folder"),
        ([{"input": "a", "trian": {}}], {}, "unknown key 'trian'"),
        ([{"input": "a", "train": 5}], {}, "captures[0].train: 5 says nothing about a step"),
        ([{"input": "a", "train": {"max_step": 5}}], {}, "'max_step' is unknown. Did you mean 'max_steps'?"),
        ([{"input": "a", "train": {"max_steps": "many"}}], {}, "all.json: a: train:"),
        ([{"input": "a", "train": {"output_dir": "x"}}], {}, "'output_dir' is chosen by the batch"),
        ([{"input": "a", "train": {"method": "nerf"}}], {}, "all.json: a: train:"),
        ([{"input": "a", "train": False}], {}, "eval without train"),
        ([{"input": "a", "render": {"output_path": "../../x.mp4"}}], {}, "leaves the folder of the capture"),
        ([{"input": "a", "embed": {"text": "hi", "key": "secret"}}], {}, "'key' does not belong into a file"),
        ([{"input": "a", "eval": {"stability": "yes"}}], {}, "'yes' is neither true nor false"),
        ([{"input": "a", "eval": {"max_images": {"a": 1}}}], {}, "is no text and no number"),
        ([{"input": "a"}], {"output_dir": 3}, "'output_dir' is no path"),
    ],
)
def test_mistakes_are_found_before_any_work(
    captures: list[object], more: dict[str, object], line: str, balls: Path, commands: Commands, capsys: Capture
) -> None:
    manifest = write(balls, *captures, **more)
    assert main(["batch", str(manifest)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and line in err
    assert not commands.words and not (balls / "all-results").exists()


def test_a_value_that_looks_like_a_flag_stays_a_value(balls: Path) -> None:
    manifest = read_manifest(write(balls, {"input": "a", "embed": {"text": "--overwrite"}}))
    plan = capture_plan(manifest.captures[0], manifest, 1)
    assert "--text=--overwrite" in plan.steps[-1].words


def test_paths_are_relative_to_the_manifest(balls: Path) -> None:
    (balls / "way.json").write_text("{}")
    manifest = read_manifest(
        write(balls, {"input": "a", "render": {"path": "way.json"}, "embed": {"text": "x", "key_file": "key.txt"}})
    )
    plan = capture_plan(manifest.captures[0], manifest, 1)
    assert f"--path={balls / 'way.json'}" in plan.steps[2].words
    assert f"--key-file={balls / 'key.txt'}" in plan.steps[3].words
    assert f"--output-path={balls / 'all-results/a/way.mp4'}" in plan.steps[2].words


class _InProcessRay:
    """Does tasks when they are asked for."""

    class exceptions:  # noqa: N801 - as in Ray
        class TaskCancelledError(Exception):
            pass

        class RayError(Exception):
            pass

    def remote(self, **_: object) -> Any:
        return lambda function: type("Task", (), {"remote": staticmethod(lambda plan: (function, plan))})

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return running[:num_returns], running[num_returns:]

    def get(self, reference: Any) -> Any:
        function, plan = reference
        if plan.name == "b":
            raise self.exceptions.RayError("the node is gone")
        return function(plan)


def test_a_capture_whose_node_is_lost_is_told_as_failed(balls: Path, commands: Commands) -> None:
    manifest = read_manifest(write(balls, {"input": "a"}, {"input": "b"}))
    plans = [capture_plan(job, manifest, 1) for job in manifest.captures]
    rows = {row.name: row for row in rows_from_ray(_InProcessRay(), plans, 1, stop_at_failure=False)}
    assert rows["a"].state == "done" and rows["b"].state == "failed"
    assert "the node is gone" in rows["b"].steps[0].error


@pytest.mark.slow
def test_real_commands_train_judge_and_render(balls: Path, capsys: Capture) -> None:
    (balls / "bad").mkdir()
    (balls / "bad" / "transforms.json").write_text('{"frames": []}')
    manifest = write(balls, {"input": "bad"}, {"input": "a"})
    assert main(["batch", str(manifest), "--json", "-"]) == 2
    said = capsys.readouterr()
    bad, good = json.loads(said.out)["captures"]
    assert bad["steps"][0]["state"] == "failed" and "transforms.json" in bad["steps"][0]["error"]
    results = {step["name"]: step["result"] for step in good["steps"]}
    assert results["train"]["steps"] == 30 and results["eval"]["psnr"] > 10 and results["render"]["frames"] == 3
    assert Path(results["render"]["output"]).parent == balls / "all-results" / "a"
    page = (balls / "all-results" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and 'href="a/orbit.mp4"' in page and "src=http" not in page


def test_no_manifest_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path / "none.json")
