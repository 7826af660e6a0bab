"""Frames made by a real Ray on this machine: the bytes of a single process, also when all workers are killed."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nerfstudio_ext.camera_paths import orbit
from nerfstudio_ext.cli import main
from nerfstudio_ext.cluster import ray_cluster
from nerfstudio_ext.cluster.ray_cluster import connected
from nerfstudio_ext.cluster.ray_frames import frames_on_ray
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.exporters.frame_work import FrameTask, FrameWork, MadeFile, MakeFrames
from nerfstudio_ext.training.runs import open_run
from tests.training.tiny import RecordingProgress

N_FRAMES = 6
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra [cluster])")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray of two workers that `ray start --head` started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path("/tmp") / f"nsx-ray-{os.getpid()}"  # noqa: S108 - Ray's sockets need a short path
    words = ["start", "--head", "--block", "--num-cpus=2", f"--port={port}",
             "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]  # fmt: skip
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environ = {**os.environ, **one_thread, "RAY_worker_niceness": "0"}
    log = tmp_path_factory.mktemp("ray") / "log.txt"
    with log.open("w") as out:
        ray = Path(sys.executable).with_name("ray")
        head = subprocess.Popen([ray, *words], stdout=out, stderr=out, env=environ, start_new_session=True)
    try:
        for _ in range(600):
            if "Ray runtime started" in log.read_text() or head.poll() is not None:
                break
            time.sleep(0.5)
        assert head.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            del os.environ[name]
        head.terminate()
        try:
            head.wait(60)
        finally:
            for pid in processes_of(str(folder)):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["rm", "-rf", str(folder)], check=True)


def processes_of(words: str) -> list[int]:
    """Processes of this user's whose command line has these words in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and int(entry.parent.name) != os.getpid():
            found.append(int(entry.parent.name))
    return found


def killing_all_workers(make: MakeFrames) -> MakeFrames:
    """Kill every worker once, when the first frame is there."""

    def made(work: FrameWork, tasks: Sequence[FrameTask]) -> Iterator[tuple[int, list[MadeFile]]]:
        for n, frame in enumerate(make(work, tasks)):
            if n == 0:
                workers = processes_of("ray::FrameWorker")
                assert workers
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
            yield frame

    return made


@pytest.mark.slow
@needs_ray
def test_a_cluster_gives_the_bytes_of_one_process_even_when_its_workers_are_killed(
    cluster: str, tiny_run: Path, tmp_path: Path
) -> None:
    opened = open_run(tiny_run)
    path = orbit(opened.meta.cameras, seconds=1.0, fps=N_FRAMES, size=(24, 18))
    options = FrameOptions(outputs=("rgb", "depth"))
    write_frames(opened.renderer(), path, tmp_path / "one.mp4", options, frame=opened.meta.frame)
    progress = RecordingProgress()
    with connected(cluster, 2) as ray:
        make = killing_all_workers(frames_on_ray(ray, opened, 2, progress))
        write_frames(
            opened.renderer(), path, tmp_path / "many.mp4", options, frame=opened.meta.frame, progress=progress,
            make_frames=make,
        )  # fmt: skip
    for name in ("{}.mp4", "{}_depth.mp4"):
        assert (tmp_path / name.format("many")).read_bytes() == (tmp_path / name.format("one")).read_bytes()
    retold = [line for line in progress.warnings if "the frame is made again (try 2)" in line]
    assert retold and len(retold) <= 2
    assert (N_FRAMES, "") in progress.notes and f"rendering {N_FRAMES} frames" in progress.stages[0][0]


@pytest.mark.slow
@needs_ray
def test_the_command_fills_a_folder_with_the_files_of_one_process(cluster: str, tiny_run: Path, tmp_path: Path) -> None:
    words = ["render", str(tiny_run), "--seconds", "1", "--fps", "4", "--size", "24x18", "--outputs", "rgba"]
    assert main([*words, "--output-path", str(tmp_path / "one")]) == 0
    assert main([*words, "--output-path", str(tmp_path / "many"), "--ray", cluster, "--ray-workers", "1"]) == 0
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(files) == 5 and files == sorted(file.name for file in (tmp_path / "many").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes(), name


def test_without_ray_one_line_says_how_to_get_it(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(ray_cluster, "importlib", SimpleNamespace(import_module=missing))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):  # put back after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert main(["render", str(tiny_run), "--output-path", str(tmp_path / "a"), "--ray", "local"]) == 2
    assert "Install it: pip install 'nerfstudio-ext[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_workers_without_a_cluster_are_a_mistake(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(tiny_run), "--ray-workers", "2"]) == 2
    assert "there are no workers to count" in capsys.readouterr().err


class _RayError(Exception):
    """What a cluster says of a worker that is gone."""


class _LostRay:
    """A cluster whose workers always die: stands for the module, for its workers, and for their methods."""

    exceptions = SimpleNamespace(RayError=_RayError, RayTaskError=type("RayTaskError", (_RayError,), {}))

    def __init__(self) -> None:
        self.make = SimpleNamespace(remote=lambda *_: object())

    def put(self, value: object) -> object:
        return value

    def remote(self, *_: object, **needs: int) -> Any:
        return (lambda kind: self) if needs else self

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return running[:num_returns], running[num_returns:]

    def get(self, reference: object) -> object:
        raise _RayError("out of memory")


def test_a_frame_that_ends_every_worker_is_given_up(tiny_run: Path, tmp_path: Path) -> None:
    opened = open_run(tiny_run)
    progress = RecordingProgress()
    make = frames_on_ray(_LostRay(), opened, 1, progress)
    path = orbit(opened.meta.cameras, seconds=1.0, fps=2.0, size=(24, 18))
    with pytest.raises(UserError, match="tried 4 times.*out of memory"):
        write_frames(opened.renderer(), path, tmp_path / "a", make_frames=make, progress=progress)
    assert len(progress.warnings) == 3
