"""Ctrl+C and SIGTERM: the state is saved and the process leaves with the right code; handlers are put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nerfstudio_ext.training import checkpoints as ck
from nerfstudio_ext.training.config import TrainConfig
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.signals import StopOnSignal
from tests.training.tiny import register_tiny, tiny_trainer

ROOT = Path(__file__).resolve().parents[2]
_TRAIN = """
import sys, time
from pathlib import Path
from nerfstudio_ext.training.config import TrainConfig
from tests.training.tiny import tiny_trainer
trainer, progress = tiny_trainer(Path(sys.argv[1]), TrainConfig(max_steps=10**9, steps_per_save=10**9))
def before_step(step):
    if step == 5:
        print(trainer.run.path, flush=True)
    if len(sys.argv) > 2 and step == 5:
        time.sleep(300)
trainer.method.before_step = before_step
asked = []
def warn(line):
    asked.append(time.process_time())
    progress.warnings.append(line)
progress.warn = warn
with trainer.run:
    result = trainer.train()
busy = time.process_time() - asked[0]
print(result.stopped_by, result.steps, round(busy, 3), *progress.warnings, flush=True)
sys.exit(result.exit_code)
"""


def start(output: Path, *extra: str) -> tuple[subprocess.Popen[str], Path]:
    child = subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(output), *extra], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves_in_time(tmp_path: Path, number: signal.Signals, code: int) -> None:
    child, run = start(tmp_path)
    child.send_signal(number)
    said, _ = child.communicate(timeout=240)
    assert child.returncode == code
    stopped_by, steps, busy, *_ = said.split()
    assert stopped_by == number.name
    assert float(busy) < 1, "processor time from the signal to the end: wall time would test the machine's load"
    assert "once more stops at once" in said
    assert ck.newest_checkpoint(run / "checkpoints")[0].step == int(steps) > 5
    assert not (run / "lock").exists()
    register_tiny()
    again, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=int(steps) + 3), run=Run.open(run))
    assert again.resume() == int(steps)
    assert again.train().steps == int(steps) + 3


def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    child, run = start(tmp_path, "a step that takes a minute")
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert child.poll() is None, "the first signal waits for the step"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=120)
    assert child.returncode == 130
    assert not list((run / "checkpoints").glob("*")) or ck.list_checkpoints(run / "checkpoints") == []


def test_the_flag_is_set_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    asked: list[str] = []
    with StopOnSignal(asked.append) as stop:
        assert not stop.is_requested
        assert stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_requested
        assert stop.exit_code == 143
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.code == 130
    assert asked == ["SIGTERM"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), StopOnSignal():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_train_without_handlers() -> None:
    stops: list[StopOnSignal] = []

    def work() -> None:
        with StopOnSignal() as stop:
            stops.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not stops[0].is_requested
