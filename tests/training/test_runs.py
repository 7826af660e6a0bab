"""Run folders: made fresh, locked, opened again, refused when they are not what they should be."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.run_lock import RunLock
from nerfstudio_ext.training.runs import Run, find_run, open_run
from tests.training.tiny import TinyConfig, register_tiny, tiny_meta, tiny_trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _tiny_is_known() -> None:
    register_tiny()


def fresh(output: Path) -> Run:
    return Run.create(output, RunConfig(TinyConfig(hidden=8)), tiny_meta())


def test_a_fresh_run_is_complete_and_never_an_old_one(tmp_path: Path) -> None:
    with fresh(tmp_path) as one, fresh(tmp_path) as other:
        assert one.path != other.path
        for run in (one, other):
            assert run.path.parent == tmp_path / "tiny-scene" / "tiny"
            assert (run.path / "config.json").is_file()
            assert run.scene_meta().image_names == tiny_meta().image_names
            data = json.loads((run.path / "config.json").read_text())
            assert data["schema"] == 1
            assert data["method"] == {"name": "tiny", "hidden": 8, "lr": 0.01, "note": None, "sizes": [1, 2]}


@pytest.mark.parametrize("name", ["../../etc", "/abs", "a/b\\c", "..", "", "\0", "x" * 400, "Küche 2"])
def test_no_scene_name_leaves_the_output_folder(tmp_path: Path, name: str) -> None:
    with Run.create(tmp_path / "out", RunConfig(TinyConfig()), replace(tiny_meta(), name=name)) as run:
        assert (tmp_path / "out").resolve() in run.path.resolve().parents
        assert len(run.path.relative_to(tmp_path / "out").parts) == 3


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no run folder can be made.*--output-dir"):
        fresh(tmp_path / "file" / "out")


def test_the_log_gets_what_is_logged_until_the_run_is_closed(tmp_path: Path) -> None:
    logger = logging.getLogger("nerfstudio_ext.anything")
    with fresh(tmp_path) as run:
        logger.info("while open")
    logger.info("after closing")
    text = (run.path / "log.txt").read_text()
    assert "while open" in text
    assert "after closing" not in text


def test_changed_settings_are_recorded(tmp_path: Path) -> None:
    with fresh(tmp_path) as run:
        assert run.change_config(run.config) == []
        lines = run.change_config(replace(run.config, train=TrainConfig(max_steps=50)))
        assert lines == ["train.max_steps (None -> 50)"]
    with Run.open(run.path) as again:
        assert again.config.train.max_steps == 50
        assert again.config.changes == ("train.max_steps (None -> 50)",)


# -- Finding and opening -------------------------------------------------------------------------------------------


def test_a_run_is_found_from_many_paths(tmp_path: Path) -> None:
    with fresh(tmp_path) as old, fresh(tmp_path) as new:
        os.utime(old.path / "config.json", (1, 1))
        (new.path / "checkpoints" / "step-0000001").mkdir(parents=True)
        for path in (".", "config.json", "checkpoints", "checkpoints/step-0000001", "log.txt"):
            assert find_run(new.path / path) == new.path
        for path in (tmp_path, tmp_path / "tiny-scene", tmp_path / "tiny-scene" / "tiny"):
            assert find_run(path) == new.path
    with pytest.raises(UserError, match="no such run"):
        find_run(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run folder"):
        find_run(tmp_path / "empty")


def test_an_opened_run_renders_what_the_trained_method_renders(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=40, steps_per_save=20))
    trainer.train()
    trainer.run.close()
    rays = trainer.scene.meta.training_cameras()[0].rays()
    before = sorted((p, p.stat().st_mtime_ns) for p in trainer.run.path.rglob("*"))
    opened = open_run(trainer.run.path)
    assert opened.step == 40
    assert opened.meta.name == "tiny scene"
    assert torch.equal(opened.method.render_rays(rays).rgb, trainer.method.render_rays(rays).rgb)
    frame = opened.renderer().render(opened.meta.training_cameras()[0])
    assert frame.version == 40
    assert open_run(trainer.run.path, checkpoint=20).step == 20
    assert sorted((p, p.stat().st_mtime_ns) for p in trainer.run.path.rglob("*")) == before


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=5))
    trainer.train()
    path = trainer.run.path / "config.json"
    data = json.loads(path.read_text())
    data["method"]["hidden"] = 24
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"'first': expected \(3, 24\) float32, got \(3, 16\)"):
        open_run(trainer.run.path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1, "schema": 1}', '{"schema": NaN}', "[" * 10_000])
def test_a_damaged_config_is_one_line(tmp_path: Path, text: str) -> None:
    with fresh(tmp_path) as run:
        (run.path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json"):
        open_run(run.path)


# -- Lock -------------------------------------------------------------------------------------------------------------


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with fresh(tmp_path) as run:
        with pytest.raises(UserError, match=f"process {os.getpid()} is using this run"):
            Run.open(run.path)
        assert not open_can_write(run.path)
    assert not (run.path / "lock").exists()
    Run.open(run.path).close()


def open_can_write(path: Path) -> bool:
    """Whether another process gets the lock."""
    code = (
        "import sys; from pathlib import Path; from nerfstudio_ext.training.run_lock import RunLock\n"
        "from nerfstudio_ext.errors import UserError\n"
        "try: RunLock(Path(sys.argv[1])).acquire()\n"
        "except UserError: sys.exit(2)\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(path / "lock")], cwd=ROOT, check=False).returncode == 0


def test_the_lock_of_a_killed_process_is_taken_over_and_said(tmp_path: Path) -> None:
    with fresh(tmp_path) as run:
        pass
    code = (
        "import os, signal, sys; from pathlib import Path; from nerfstudio_ext.training.run_lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path / "lock")], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert (run.path / "lock").exists()
    leftover = run.path / "checkpoints" / ".tmp-step-0000005-1"
    leftover.mkdir(parents=True)
    with Run.open(run.path) as again:
        assert again.was_cut_short
    assert not leftover.exists()
    with Run.open(run.path) as again:
        assert not again.was_cut_short


@pytest.mark.parametrize("content", ["", "garbage", '{"pid": -1}', '{"pid": "x"}', '{"pid": 1e9}', "[1]", "\x00" * 50])
def test_a_damaged_lock_is_stale(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    lock = RunLock(tmp_path / "lock")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "lock").exists()


def test_a_reused_process_number_is_stale_but_a_living_one_is_not(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "lock")
    (tmp_path / "lock").write_text(json.dumps({"pid": os.getppid(), "started": "1"}))
    if Path("/proc/self/stat").exists():
        assert lock.acquire()
        lock.release()
    (tmp_path / "lock").write_text(json.dumps({"pid": os.getppid()}))
    with pytest.raises(UserError, match=f"process {os.getppid()} is using"):
        lock.acquire()
