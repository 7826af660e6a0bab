"""Odd surroundings: no home, no terminal, other locales, a clock that jumps, readers that leave, a viewer that dies."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nerfstudio_ext.cli import console
from nerfstudio_ext.cli.console import Output
from nerfstudio_ext.cli.viewer_links import viewer_secret
from nerfstudio_ext.progress import TrainStatus
from nerfstudio_ext.viewer import ViewerServer
from nerfstudio_ext.viewer.incoming import MAX_UPLOAD_BYTES
from tests.cli.tiny_capture import TINY_METHOD
from tests.reliability.cases import holds
from tests.reliability.nsx_process import ROOT, assert_done, assert_one_line, run_fresh, run_nsx, start_nsx, unchanged
from tests.viewer.fakes import TEST_SECRET, AzimuthRenderer, FakeBrowser, ring_of_cameras

PATIENCE_S = 120.0
"""A command takes a second or two; only one that hangs comes near this, also where many share a core."""
SHORT = ["--max-steps", "12", "--steps-per-save", "12", "--max-images", "0", *TINY_METHOD]


def weights_below(folder: Path) -> bytes:
    """The weights of the one run below a folder."""
    (found,) = folder.glob("*/ngp/*/checkpoints/step-*/weights.safetensors")
    return found.read_bytes()


@pytest.fixture(scope="module")
def plain(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that an undisturbed training ends with."""
    folder = tmp_path_factory.mktemp("plain")
    assert_done(run_nsx(["train", "ngp", str(tiny_capture), "--no-viewer", *SHORT], folder=folder, seconds=PATIENCE_S))
    return weights_below(folder / "outputs")


# -- F14 -------------------------------------------------------------------------------------------------


@holds("F14")
def test_no_home_no_locale_no_temporary_folder_and_a_dumb_terminal(tiny_capture: Path, tmp_path: Path, plain) -> None:
    """All at once, in a Python of its own; names beyond ASCII in the capture and the output."""
    capture = tmp_path / "b\N{LATIN SMALL LETTER A WITH DIAERESIS}ll \N{GRINNING FACE}"
    shutil.copytree(tiny_capture, capture)
    env = {
        "HOME": None, "USER": None, "LOGNAME": None, "XDG_CACHE_HOME": None, "XDG_STATE_HOME": None, "LC_ALL": "C",
        "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": str(tmp_path / "gone"), "TERM": "dumb",
        "COLUMNS": "80", "LINES": "24",
    }  # fmt: skip
    ended = run_fresh(
        ["train", "ngp", str(capture), "--no-viewer", *SHORT], folder=tmp_path, env=env, seconds=PATIENCE_S
    )
    assert_done(ended)
    assert weights_below(tmp_path / "outputs") == plain
    assert (ended.out + ended.err).isprintable() or "\x1b" not in ended.out + ended.err


@holds("F14")
def test_without_a_home_the_viewer_gets_a_secret_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(no_home))
    assert len(viewer_secret()) == 32 and viewer_secret() != viewer_secret()


@holds("F14")
@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(tiny_capture: Path, tmp_path: Path, term: str) -> None:
    ours, theirs = os.openpty()
    try:
        argv = ["train", "ngp", str(tiny_capture), "--no-viewer", *SHORT]
        running = start_nsx(argv, folder=tmp_path, env={"TERM": term}, out=Path(os.ttyname(theirs)))
        said, ended = b"", None
        os.set_blocking(ours, False)
        began = time.monotonic()
        while time.monotonic() < began + PATIENCE_S and b"look again" not in said:
            try:
                said += os.read(ours, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
        ended = running.wait(seconds=PATIENCE_S)
    finally:
        os.close(ours)
        os.close(theirs)
    assert_done(ended)
    text = said.decode().replace("\r\n", "\n")
    assert "train: done" in text and "\x1b" not in text and "\r" not in text


@holds("F14")
def test_a_full_or_closed_output_does_not_end_training(tiny_capture: Path, tmp_path: Path, plain: bytes) -> None:
    argv = ["train", "ngp", str(tiny_capture), "--no-viewer", *SHORT]
    running = start_nsx([*argv, "--output-dir", "full"], folder=tmp_path, out=Path("/dev/full"))
    assert_done(running.wait(seconds=PATIENCE_S))
    assert weights_below(tmp_path / "full") == plain
    # The reader of a pipe leaves after one line, as `head -1` does.
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["head", "-1", str(tmp_path / "pipe")], stdout=subprocess.DEVNULL)
    running = start_nsx([*argv, "--output-dir", "left"], folder=tmp_path, out=tmp_path / "pipe")
    reader.wait(PATIENCE_S)
    assert_done(running.wait(seconds=PATIENCE_S))
    assert weights_below(tmp_path / "left") == plain


@holds("F14")
def test_started_without_standard_output_it_works_all_the_same(tmp_path: Path) -> None:
    """`nsx ... >&- 2>&-`: Python then has no streams at all."""
    start = "os.execv(sys.executable, [sys.executable, '-m', 'nerfstudio_ext', *sys.argv[1:]])"
    code = f"import os, sys\nos.close(1), os.close(2)\n{start}"
    argv = ["train", "nowhere", "--json", "result.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, "an input that is not there, not a fault of its own"


@holds("F14")
def test_other_faults_of_an_output_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def write(self, text: str) -> int:
            raise OSError(errno.EINVAL, "odd")

        def flush(self) -> None:
            return None

    monkeypatch.setattr(console.sys, "stdout", Odd())
    with pytest.raises(OSError, match="odd"):
        Output().say("x")


@holds("F14")
def test_a_clock_that_jumps_back_changes_nothing(tiny_capture: Path, tmp_path: Path, plain: bytes, monkeypatch) -> None:
    """Only `time.time` and what is made of it can jump; durations come from clocks that cannot."""
    from nerfstudio_ext.cli import main

    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * next(calls))
    moments = [time.localtime(1_700_000_000 - 86_400 * k) for k in range(50)]
    monkeypatch.setattr(time, "strftime", lambda form, *at: time_text(form, *(at or (moments.pop(0),))))
    for _ in range(2):
        code = main(["train", "ngp", str(tiny_capture), "--no-viewer", "--output-dir", str(tmp_path), *SHORT])
        assert code == 0
    runs = sorted(tmp_path.glob("*/ngp/*"))
    assert len(runs) == 2
    for run in runs:
        assert next(run.glob("checkpoints/*/weights.safetensors")).read_bytes() == plain


time_text = time.strftime


# -- F15 -------------------------------------------------------------------------------------------------


@holds("F15")
def test_a_taken_port_and_garbage_on_the_new_one_leave_training_alone(
    tiny_capture: Path, tmp_path: Path, plain: bytes
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        argv = ["train", "ngp", str(tiny_capture), "--port", str(port), *SHORT]
        running = start_nsx(argv, folder=tmp_path, env={"XDG_STATE_HOME": str(tmp_path)})
        running.wait_for("Viewer: http", seconds=PATIENCE_S)
        said = running.out() + running.err()
        assert f"{port} is taken" in said or f"port {port}" in said, said
        used = int(said.partition("Viewer: http://127.0.0.1:")[2].split("/")[0])
        assert used != port
        for garbage in (b"\0" * 4096, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000, b"\x16\x03\x01 not TLS", b""):
            # It may be shown the door before it is through.
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", used), timeout=5) as stranger:
                stranger.sendall(garbage)
        ended = running.wait(seconds=PATIENCE_S)
    assert_done(ended)
    assert weights_below(tmp_path / "outputs") == plain


@holds("F15")
def test_a_viewer_that_dies_is_told_and_training_goes_on(
    tiny_capture: Path, tmp_path: Path, plain, monkeypatch, capsys
):
    from nerfstudio_ext.cli import main

    def die(self: ViewerServer, status: TrainStatus) -> None:
        raise ConnectionError("the viewer's thread has ended")

    monkeypatch.setattr(ViewerServer, "stepped", die)
    monkeypatch.setattr(ViewerServer, "wants_snapshot", lambda self: False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    argv = ["train", "ngp", str(tiny_capture), "--output-dir", str(tmp_path), "--port", "0", *SHORT]
    monkeypatch.setattr("nerfstudio_ext.training.watching._STATUS_S", 0.0)
    assert main(argv) == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "the viewer failed (ConnectionError: the viewer's thread has ended); training goes on without it" in said
    assert weights_below(tmp_path) == plain


# -- F16, F17 --------------------------------------------------------------------------------------------


@pytest.fixture
def viewer():
    made = ViewerServer(ring_of_cameras(4), port=0, secret=TEST_SECRET)
    made.set_renderer(AzimuthRenderer())
    yield made
    made.close()


@holds("F16")
def test_strangers_are_refused_and_told_of_once(viewer: ViewerServer, caplog: pytest.LogCaptureFixture) -> None:
    def ask(host: str, origin: str = "", path: str = "/") -> int:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"Origin: {origin}"] if origin else []
        with socket.create_connection(("127.0.0.1", viewer.port), timeout=5) as stranger:
            stranger.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            return int(stranger.recv(64).split()[1])

    own = f"127.0.0.1:{viewer.port}"
    with caplog.at_level(logging.INFO, logger="nerfstudio_ext.viewer"):
        for _ in range(3):
            assert ask("evil.example") == 403
            assert ask(own, "http://evil.example") == 403
            assert ask(own, "http://[") == 403
            assert ask(own) == 401
            assert ask(own, path="/?token=" + "0" * 32) == 401
            assert ask(own, path="//[") == 401
    told = [record for record in caplog.records if "refused a visitor" in record.message]
    assert [record.levelname for record in told] == ["WARNING", "INFO"]
    assert "Host evil.example" in told[0].message


@holds("F17")
def test_refused_uploads_are_told_and_nothing_partial_stays(viewer: ViewerServer) -> None:
    browser = FakeBrowser(viewer.port)
    browser.look()
    button = browser.control("UploadButton", "Open a file")
    start = {"source_component_uuid": button, "filename": "../../x.json", "mime_type": "application/json"}
    files = set(viewer.room.folder.rglob("*"))
    for number in range(200):
        browser.send("FileTransferStartUpload", transfer_uuid=f"f{number}", part_count=9, size_bytes=10 << 30, **start)
    notice = browser.wait_message(lambda m: m["type"] == "NotificationShowMessage")
    assert f"at most {MAX_UPLOAD_BYTES >> 20} MB" in notice["props"]["body"]
    browser.send("FileTransferStartUpload", transfer_uuid="empty", part_count=0, size_bytes=0, **start)
    browser.send("FileTransferStartUpload", transfer_uuid="aborted", part_count=2, size_bytes=100, **start)
    browser.send(
        "FileTransferPart", source_component_uuid=button, transfer_uuid="aborted", part_index=0, content=bytes(50)
    )
    time.sleep(0.2)
    notices = [m for m in browser.messages if m["type"] == "NotificationShowMessage"]
    assert len(notices) <= 3, "two hundred files make no two hundred notices"
    browser.close()
    again = FakeBrowser(viewer.port)
    again.look()
    again.wait(1)  # the server serves on
    again.close()
    assert set(viewer.room.folder.rglob("*")) == files


# -- F18 to F21: `test_outputs`


@holds("F14")
def test_inputs_are_left_alone(tiny_run: Path, tmp_path: Path) -> None:
    with unchanged(tiny_run):
        ended = run_nsx(["eval", str(tiny_run), "--capture", "gone"], folder=tmp_path, seconds=PATIENCE_S)
    assert_one_line(ended, 2, names="gone", says="not there")
