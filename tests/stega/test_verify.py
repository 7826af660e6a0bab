"""`nsx stega embed RUN --verify FILE`: an exported file carries the message, or the exit code says that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import nerfstudio_ext.training.runs as runs
from nerfstudio_ext.cli import main
from nerfstudio_ext.stages.stega.base_views import base_views
from nerfstudio_ext.stages.stega.marked_run import MARK_FILE
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import OpenedRun
from tests.stega.marks import OWNER, SECRET
from tests.stega.wall_marks import SIZE, marked_wall
from tests.stega.wall_scene import wall_meta

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A marked run, and two exports beside it: one with the mark and one without."""
    meta, method = wall_meta(SIZE), marked_wall().method
    (tmp_path / MARK_FILE).write_text(json.dumps({"code": "id-127", "settings": {"size": SIZE}}))
    opened = OpenedRun(tmp_path, RunConfig(method.config), meta, method, 1)
    monkeypatch.setattr(runs, "open_run", lambda path: opened)
    view = base_views(method.base, [meta.cameras[3]])[0]
    Image.fromarray(view.picture(method.correction, meta.background)).save(tmp_path / "marked.png")
    Image.fromarray(view.picture(None, meta.background)).save(tmp_path / "plain.png")
    return tmp_path


def verify(marked: Path, file: str, capsys: Capture, *more: str, key: str = SECRET) -> tuple[int, str, str]:
    words = ["stega", "embed", marked, "--verify", marked / file, "--key", key, "--json", "-", *more]
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_exports_with_and_without_the_mark_are_told_apart(marked: Path, capsys: Capture) -> None:
    identity = ("--payload-id", OWNER.text)
    code, answer, said = verify(marked, "marked.png", capsys, *identity)
    assert code == 0 and json.loads(answer)["carries"] and "carries the message" in said
    code, answer, said = verify(marked, "plain.png", capsys, *identity)
    assert code == 3 and not json.loads(answer)["carries"] and "does NOT carry" in said
    assert verify(marked, "marked.png", capsys, *identity, key="another")[0] == 3
    assert verify(marked, "marked.png", capsys, "--payload-id", "0badcafe0002")[0] == 3
    assert not (marked / "wall").exists(), "nothing was embedded"


def test_a_new_film_is_made_and_read(marked: Path, capsys: Capture) -> None:
    code, answer, _ = verify(marked, "orbit.mp4", capsys, "--payload-id", OWNER.text)
    result = json.loads(answer)
    assert code == 0 and result["is_made"] and len(result["views"]) == 24 and (marked / "orbit.mp4").stat().st_size
    code, _, said = verify(marked, "missing.png", capsys, "--payload-id", OWNER.text)
    assert code == 2 and "no such file" in said
    code, _, said = verify(marked, "marked.png", capsys, "--text", "hello")
    assert code == 2 and "does not hold 'hello'" in said
