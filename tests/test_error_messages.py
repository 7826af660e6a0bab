"""Every mistake a user can make on the command line, and the one line it gets.

The lines are in error_messages.txt. After an intended change write them anew and read the difference:
NSX_UPDATE_SNAPSHOTS=1 pytest tests/test_error_messages.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext import methods
from nerfstudio_ext.cli import main

SNAPSHOT = Path(__file__).with_name("error_messages.txt")
Build = Callable[[Path, Path, Path], None]
"""build(here, capture, run): makes the files of a case in `here` from the good capture and the good run."""


def nothing(_here: Path, _capture: Path, _run: Path) -> None:
    """The words alone are wrong."""


def folder(name: str, **files: bytes) -> Build:
    """A folder with files; `__` in a name stands for a dot."""

    def build(here: Path, _capture: Path, _run: Path) -> None:
        (here / name).mkdir()
        for file, content in files.items():
            (here / name / file.replace("__", ".")).write_bytes(content)

    return build


def edited_capture(change: Callable[[dict], object]) -> Build:
    """The good capture as `bad`, its transforms.json changed."""

    def build(here: Path, capture: Path, _run: Path) -> None:
        shutil.copytree(capture, here / "bad")
        path = here / "bad" / "transforms.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return build


def capture_text(change: Callable[[str], str]) -> Build:
    """The good capture as `bad`, the text of its transforms.json changed."""

    def build(here: Path, capture: Path, _run: Path) -> None:
        shutil.copytree(capture, here / "bad")
        path = here / "bad" / "transforms.json"
        path.write_text(change(path.read_text()))

    return build


def edited_run(change: Callable[[Path], object]) -> Build:
    """The good run as `run`, changed."""

    def build(here: Path, _capture: Path, run: Path) -> None:
        shutil.copytree(run, here / "run")
        change(here / "run")

    return build


def flip_a_bit(run: Path) -> None:
    for weights in run.glob("checkpoints/*/weights.safetensors"):
        data = bytearray(weights.read_bytes())
        data[-100] ^= 1
        weights.write_bytes(bytes(data))


def cut_short(run: Path) -> None:
    for weights in run.glob("checkpoints/*/weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-50])


def add_setting(run: Path) -> None:
    data = json.loads((run / "config.json").read_text())
    data["train"]["max_stepz"] = 5
    (run / "config.json").write_text(json.dumps(data))


def few_photos(here: Path, _capture: Path, _run: Path) -> None:
    (here / "few").mkdir()
    for i in range(2):
        Image.fromarray(np.full((64, 64, 3), 100 + i, np.uint8)).save(here / "few" / f"{i}.jpg")


def no_existing_film(here: Path, capture: Path, run: Path) -> None:
    edited_run(lambda _: None)(here, capture, run)
    (here / "film.mp4").write_bytes(b"mine")


CASES: dict[str, tuple[Build, str]] = {
    "no such command": (nothing, "trian photos"),
    "no such option": (nothing, "train photos --max-stps 3"),
    "no input": (nothing, "train"),
    "two inputs": (nothing, "train --data a ngp b c"),
    "no such method": (nothing, "train npg photos"),
    "no such folder": (nothing, "train ngp nowhere"),
    "no such folder to process": (nothing, "process nowhere --output-dir out"),
    "empty folder": (folder("photos"), "train photos"),
    "no photos": (folder("photos", notes__txt=b"hello"), "process photos --output-dir out"),
    "too few photos": (few_photos, "process few --output-dir out"),
    "photos that are no pictures": (
        folder("photos", **{f"{i}__jpg": b"no picture" for i in range(9)}),
        "process photos --output-dir out",
    ),
    "json cut short": (capture_text(lambda t: t[:300]), "train bad"),
    "json with NaN": (capture_text(lambda t: t.replace('"fl_x": 22.0', '"fl_x": NaN')), "train bad"),
    "json with a key twice": (capture_text(lambda t: t.replace('"fl_x"', '"w": 3, "fl_x"')), "train bad"),
    "no frames": (edited_capture(lambda d: d.update(frames=[])), "train bad"),
    "path out of the folder": (edited_capture(lambda d: d["frames"][3].update(file_path="../../x.png")), "train bad"),
    "absolute path": (edited_capture(lambda d: d["frames"][3].update(file_path="/etc/passwd")), "train bad"),
    "missing photo": (edited_capture(lambda d: d["frames"][3].update(file_path="images/x.png")), "train bad"),
    "unknown lens": (edited_capture(lambda d: d.update(camera_model="FISHEYE_9000")), "train bad"),
    "mirrored pose": (
        edited_capture(lambda d: [row.__setitem__(0, -row[0]) for row in d["frames"][3]["transform_matrix"]]),
        "train bad",
    ),
    "negative focal length": (edited_capture(lambda d: d.update(fl_x=-5)), "train bad"),
    "posed capture to process": (edited_capture(lambda d: None), "process bad --output-dir out"),
    "bad downscale": (edited_capture(lambda d: None), "train bad --downscale-factor 0.5"),
    "bad steps": (nothing, "train bad --max-steps 0"),
    "steps not a number": (nothing, "train bad --max-steps many"),
    "not a run": (folder("photos"), "view photos"),
    "no such run": (nothing, "eval nowhere"),
    "run without checkpoints": (edited_run(lambda r: shutil.rmtree(r / "checkpoints")), "render run"),
    "flipped bit in all checkpoints": (edited_run(flip_a_bit), "view run"),
    "all checkpoints cut short": (edited_run(cut_short), "train --resume run --no-viewer"),
    "unknown setting in config.json": (edited_run(add_setting), "view run"),
    "config.json is no json": (edited_run(lambda r: (r / "config.json").write_text("{")), "view run"),
    "no such checkpoint": (edited_run(lambda r: None), "render run --checkpoint 7"),
    "method settings on resume": (edited_run(lambda r: None), "train --resume run --hidden 32"),
    "input on resume": (edited_run(lambda r: None), "train photos --resume run"),
    "no such path": (edited_run(lambda r: None), "render run --path orbitt"),
    "no such output": (edited_run(lambda r: None), "render run --outputs normals --output-path o"),
    "unknown film format": (edited_run(lambda r: None), "render run --output-path film.avi"),
    "film exists": (no_existing_film, "render run --output-path film.mp4"),
    "bad size": (edited_run(lambda r: None), "render run --size 12"),
    "bad rate": (edited_run(lambda r: None), "path orbit run --fps 0"),
    "no kind of path": (nothing, "path"),
    "no kind of export": (nothing, "export"),
    "no such kind of export": (nothing, "export meshes run"),
    "scene file that is none": (lambda here, _c, _r: (here / "a.nsx").write_bytes(b"no"), "render a.nsx"),
    "bad port": (edited_run(lambda r: None), "view run --port 99999"),
    "port is a word": (nothing, "view run --port seven"),
    "bad host": (edited_run(lambda r: None), "view run --host 300.1.1.1"),
    "json into nowhere": (nothing, "doctor --json nowhere/x.json"),
    "bench of nothing": (nothing, "bench cup"),
    "demo minutes": (nothing, "demo --minutes -1"),
}  # fmt: skip


def tree_digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(("out/", "outputs/"))
    }


def snapshots() -> dict[str, str]:
    """Name -> line."""
    blocks = SNAPSHOT.read_text().split("\n\n") if SNAPSHOT.exists() else []
    return dict(block.strip().split("\n  ", 1) for block in blocks if block.strip())


@pytest.fixture(scope="module", autouse=True)
def _known_methods() -> None:
    """Without the method that other tests make known."""
    methods.known_methods().pop("tiny", None)


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, str]]:
    """Collects what was printed, and writes it down when asked to."""
    lines: dict[str, str] = {}
    yield lines
    if os.environ.get("NSX_UPDATE_SNAPSHOTS"):
        kept = {name: line for name, line in (snapshots() | lines).items() if name in CASES}
        SNAPSHOT.write_text("\n\n".join(f"{name}\n  {kept[name]}" for name in CASES if name in kept) + "\n")


@pytest.mark.parametrize("name", CASES)
def test_message(
    name: str,
    found: dict[str, str],
    tiny_capture: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, words = CASES[name]
    build(tmp_path, tiny_capture, tiny_run)
    before = tree_digest(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NSX_DEMO_MINUTES", raising=False)
    capsys.readouterr()
    code = main(words.split())
    err = capsys.readouterr().err.replace(str(tmp_path), "HERE")
    assert code == 2, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.strip().endswith(errors[0]), err
    assert "Traceback" not in err
    line = re.sub(r"\d+(\.\d+)? (GB|MB)", "N \\2", errors[0])
    found[name] = line
    assert tree_digest(tmp_path) == before, "the input was changed"
    if not os.environ.get("NSX_UPDATE_SNAPSHOTS"):
        assert line == snapshots().get(name), "see the head of this file"


def test_every_snapshot_has_its_case() -> None:
    assert list(snapshots()) == list(CASES)
