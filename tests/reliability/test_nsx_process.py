"""The harness itself: a row can only hold a promise if breaking it is seen."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.reliability.nsx_process import Ended, assert_done, assert_one_line, run_nsx, start_nsx, unchanged


def ended_with(err: str, code: int = 2) -> Ended:
    return Ended(code, "", err, 0.1, 400.0, 10.0, False, (), ())


def test_a_command_runs_in_its_folder_with_its_streams_and_is_measured(tmp_path: Path) -> None:
    ended = run_nsx(["--version"], folder=tmp_path)
    assert_done(ended)
    assert ended.out.startswith("nerfstudio-ext ") and ended.err == ""
    assert 100 < ended.peak_mb < 1000 and ended.grown_mb < 50

    refused = run_nsx(["train", "ngp", "nothing-here"], folder=tmp_path)
    assert assert_one_line(refused, 2, names="nothing-here", says="(no such|not found|does not exist)")


def test_the_environment_and_what_is_opened_are_seen(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    ended = run_nsx(["train", "ngp", "broken.json"], folder=tmp_path, env={"NO_COLOR": "1"})
    assert ended.code == 2
    assert any(name.endswith("broken.json") for name in ended.opened)
    assert not ended.launched


def test_a_command_past_its_time_is_killed_and_one_can_be_stopped_by_a_signal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it waits for a writer that never comes
    began = time.monotonic()
    stuck = start_nsx(["--version"], folder=tmp_path, stdin=tmp_path / "fifo").wait(seconds=0.3)
    assert stuck.is_late and stuck.code == -signal.SIGKILL and time.monotonic() - began < 5
    with pytest.raises(AssertionError, match="killed after"):
        assert_one_line(stuck, 2)
    running = start_nsx(["--version"], folder=tmp_path, stdin=tmp_path / "fifo")
    running.send(signal.SIGTERM)
    assert running.wait(seconds=5).code == -signal.SIGTERM


@pytest.mark.parametrize(
    "err, why",
    [
        ("error: a.jpg: cut short.\n", "what to do"),
        ("error: a.jpg: cut short. Copy it again.\nerror: twice. Stop.\n", "one `error:` line"),
        ("Traceback (most recent call last):\nerror: a.jpg: cut short. Copy it again.\n", "Traceback"),
        ("error: b.jpg: cut short. Copy it again.\n", "a.jpg"),
        ("error: a.jpg: cut short. Run it with weights_only=False.\n", "weights_only"),
        ("", "one `error:` line"),
    ],
)
def test_a_line_that_breaks_the_promise_fails(err: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        assert_one_line(ended_with(err), 2, names="a.jpg")
    assert_one_line(ended_with("error: a.jpg: cut short. Copy it again.\n"), 2, names="a.jpg", says="cut")
    with pytest.raises(AssertionError, match="exit code 2"):
        assert_one_line(ended_with("error: a.jpg: cut short. Copy it again.\n", code=1), 2)


def test_every_kind_of_change_to_a_folder_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    photo, link = folder / "a.jpg", folder / "link"
    photo.write_bytes(b"one")
    link.symlink_to("a.jpg")

    def rewrite() -> None:
        info = photo.stat()
        photo.write_bytes(b"two")
        os.utime(photo, ns=(info.st_atime_ns, info.st_mtime_ns))

    changes = [
        rewrite,
        lambda: os.utime(photo, (1, 1)),
        lambda: (folder / "b.jpg").write_bytes(b""),
        lambda: (folder / "new").mkdir(),
        link.unlink,
        photo.unlink,
    ]
    for change in changes:
        with pytest.raises(AssertionError, match="was changed"), unchanged(folder):
            change()
    with unchanged(folder, tmp_path / "never", but=("log.txt",)):
        (folder / "log.txt").write_text("allowed")
