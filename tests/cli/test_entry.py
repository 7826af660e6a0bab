"""Every way a command can end: exit code, one line, and where the traceback goes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nerfstudio_ext.cli import console, doctor, entry
from nerfstudio_ext.cli.console import LineProgress, Output, clock, describe
from nerfstudio_ext.cli.environment import configure_threads, usable_cores
from nerfstudio_ext.cli.options import image_size, one_of
from nerfstudio_ext.errors import TrainingFailed, UserError


def ending(monkeypatch: pytest.MonkeyPatch, fault: BaseException, *words: str) -> int:
    def run(_options: object, _out: object) -> int:
        raise fault

    monkeypatch.setattr(doctor, "run", run)
    return entry.main(["doctor", *words])


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (UserError("2 photos", where="in", fix="Add more"), 2, "error: in: 2 photos. Add more.\n"),
        (TrainingFailed("run: training failed"), 1, "error: run: training failed\n"),
        (KeyboardInterrupt(), 130, "stopped.\n"),
        (entry._Terminated(), 143, "stopped by SIGTERM.\n"),
        (
            MemoryError(),
            2,
            "error: nsx doctor: not enough memory. Use a larger --downscale-factor or fewer photos.\n",
        ),
        (
            OSError(errno.ENOSPC, "x", "out/a"),
            2,
            "error: out/a: no space left on device. Free some space or choose another --output-dir.\n",
        ),
        (
            PermissionError(errno.EACCES, "x", "out"),
            2,
            "error: out: permission denied. Give yourself access or choose another folder.\n",
        ),
    ],
)
def test_faults_of_the_input_or_the_machine(
    fault: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(monkeypatch, fault) == code
    assert capsys.readouterr().err == line


def test_a_fault_of_our_own_gets_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(monkeypatch, ZeroDivisionError("division\nby zero")) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "(ZeroDivisionError: division by zero)" in line
    log = Path(line.rsplit(" ", 1)[1].strip().rstrip("."))
    assert "Traceback" in log.read_text() and "test_entry.py" in log.read_text()
    log.unlink()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(monkeypatch, UserError("x"), "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--json", "-"], ["--json", "FILE"]])
def test_json_goes_where_asked_and_text_to_stderr(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    assert entry.main(["doctor", *(str(target) if word == "FILE" else word for word in words)]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out if "-" in words else target.read_text())
    assert data["schema"] == 1 and data["missing"] == []
    assert {row["op"] for row in data["kernels"]} >= {"march", "hash_encode", "mlp", "composite"}
    assert "Kernels" in captured.err
    assert captured.out.count("\n") == (1 if "-" in words else 0)


def test_json_into_a_missing_folder_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["doctor", "--json", "nowhere/at/all.json"]) == 2
    assert capsys.readouterr().err == (
        "error: --json nowhere/at/all.json: its folder does not exist. Make the folder first.\n"
    )


def test_json_never_holds_what_json_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    Output("-").result({"psnr": float("inf"), "list": [float("nan"), 1.5], "path": Path("a")})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "psnr": None, "list": [None, 1.5], "path": "a"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_the_process_with_their_code(number: int, code: int) -> None:
    program = (
        # A shell's background job starts with SIGINT ignored.
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from nerfstudio_ext.cli import console, doctor, entry\n"
        "doctor.run = lambda *_: (print('ready', flush=True), time.sleep(30))\n"
        "sys.exit(entry.main(['doctor']))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True) as p:
        assert p.stdout is not None and p.stdout.readline() == "ready\n"
        began = time.perf_counter()
        p.send_signal(number)
        _, err = p.communicate(timeout=10)
    assert p.returncode == code and "Traceback" not in err and time.perf_counter() - began < 5


def test_a_reader_that_leaves_is_no_fault() -> None:
    command = [sys.executable, "-m", "nerfstudio_ext", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        assert p.stdout is not None and p.stderr is not None
        p.stdout.close()
        assert p.stderr.read() == b""
    assert p.returncode == 0


def test_threads_are_set_only_where_the_user_has_not() -> None:
    environ = {"OMP_NUM_THREADS": "7"}
    configure_threads(environ)
    cores = str(usable_cores())
    assert environ == {"NUMBA_THREADING_LAYER": "omp", "NUMBA_NUM_THREADS": cores, "OMP_NUM_THREADS": "7"}
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_lines_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress(Output()) as progress:
        progress.stage("matching", 4)
        progress.advance(4, "4 pairs")
        progress.warn("a.jpg is damaged")
        progress.warn("a.jpg is damaged")
        progress.stage("solving")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "matching ...", "warning: a.jpg is damaged", "matching: done in 0.0 s  4 pairs",
        "solving ...", "solving: done in 0.0 s",
    ]  # fmt: skip


def test_rate_and_time_left() -> None:
    assert describe(50, 200, 5.0) == "50/200, 5/s, 30.0 s left"
    assert describe(200, 200, 20.0) == "200/200, 20/s"
    assert describe(5, None, 0.5) == "5, 0.5/s"
    assert [clock(s) for s in (1.23, 65, 3700)] == ["1.2 s", "1:05 min", "1:01 h"]


def test_the_rate_is_that_of_the_last_seconds_not_of_a_resumed_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    stage = console.StageClock("train", 10_000)
    for second in range(1, 40):  # resumed at step 5000, then 10 steps per second
        now = 100.0 + second
        text = stage.advance(5000 + 10 * second, "")
    assert text == "5390/10000, 10/s, 7:41 min left"


def test_size_and_alternatives() -> None:
    assert image_size("1280x720") == (1280, 720) and image_size(None) is None
    for wrong in ("1280", "0x5", "ax5", "-3x4", "1x2x3", "²x4"):
        with pytest.raises(UserError):
            image_size(wrong)
    assert one_of("train", "INPUT", None, Path("a")) == Path("a")
    for given in ((None, None), (Path("a"), Path("b"))):
        with pytest.raises(UserError):
            one_of("train", "INPUT", *given)
