"""A picture hidden in a wall: trained together with its decoder, read from places where no camera stood."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nerfstudio_ext.stages.stega.hidden_run as hidden_run
import nerfstudio_ext.training.runs as runs
from nerfstudio_ext.cli import main
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.marked import Marked
from nerfstudio_ext.metrics import ssim
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.stages.stega.attacks import attack_file
from nerfstudio_ext.stages.stega.embed import EmbedSettings
from nerfstudio_ext.stages.stega.hidden_payload import Hidden, hidden_image
from nerfstudio_ext.stages.stega.hidden_picture import HiddenPicture
from nerfstudio_ext.stages.stega.hidden_run import HiddenRun, hide_in_run
from nerfstudio_ext.stages.stega.keys import Key
from nerfstudio_ext.stages.stega.mark_scene import Fidelity, SceneMarking
from nerfstudio_ext.stages.stega.marked_run import render_8bit
from nerfstudio_ext.stages.stega.picture_decoder import HiddenForm, PictureDecoder, load_decoder
from nerfstudio_ext.training.runs import OpenedRun
from tests.stega.pictures import sample_picture
from tests.stega.wall_scene import wall_meta, wall_run

SIZE, PSNR, SECRET = 96, 34.0, "owner"
SETTINGS = SceneMarking(
    EmbedSettings(steps=70, views_per_step=1, strength=0.3), Fidelity(PSNR, PSNR - 2), size=SIZE, photo_views=6,
    other_views=2, sectors=12,
)  # fmt: skip
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow  # the training that they share


class Losses(SilentProgress):
    """Keeps the share of pictures that were told apart while the mark was written."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[float] = []

    def advance(self, done: int, note: str = "") -> None:
        if "told apart" in note:
            self.shares.append(float(note.partition("%")[0]) / 100)


@dataclass
class Case:
    """A wall in which a picture is hidden, and two pictures of an unseen view: `marked.png` and `plain.png`."""

    folder: Path
    parent: OpenedRun
    child: HiddenRun
    hidden: Hidden
    progress: Losses


def small_picture() -> Image.Image:
    """Large shapes: what can be learned within seconds."""
    y, x = np.mgrid[:48, :96] / 96
    disc = (x - 0.5) ** 2 + (y - 0.25) ** 2 < 0.03
    return Image.fromarray((255 * np.stack([x, 2 * y, disc], -1)).astype(np.uint8))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("hidden")
    small_picture().save(folder / "secret.png")
    hidden, progress = hidden_image(folder / "secret.png"), Losses()
    parent = wall_run(wall_meta(SIZE), folder / "parent")
    child = hide_in_run(parent, None, Key(SECRET), hidden, folder, settings=SETTINGS, progress=progress)
    camera = parent.meta.training_cameras()[parent.meta.split.test[0]]
    Image.fromarray(render_8bit(parent.renderer(), camera)).save(folder / "plain.png")
    marked = OpenedRun(child.path, parent.config, parent.meta, child.marking.method, 1)
    Image.fromarray(render_8bit(marked.renderer(), camera)).save(folder / "marked.png")
    return Case(folder, parent, child, hidden, progress)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def extract(capsys: Capture, *words: object) -> tuple[int, dict, str]:
    code = main(["stega", "extract", *map(str, words), "--json", "-"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


def test_it_is_read_from_unseen_views_and_only_from_marked_ones(case: Case) -> None:
    check = case.child.check
    assert check.pictures == 2 and check.present == {"clean": 2, "JPEG q75": 2}
    assert check.false_alarms == {"clean": 0, "JPEG q75": 0}
    assert check.similarity["clean"] > 0.45 and check.similarity["JPEG q75"] > 0.4


def test_telling_apart_is_learned_from_nothing(case: Case) -> None:
    assert case.progress.shares[0] < 0.9 and case.progress.shares[-1] > 0.9


def test_unmarked_views_are_black(case: Case) -> None:
    decoder, _ = load_decoder(case.child.decoder)
    batch = torch.from_numpy(np.stack([pixels(case.folder / f"{name}.png") for name in ("marked", "plain")]))
    with torch.no_grad():
        shown, black = decoder(batch.permute(0, 3, 1, 2).float() / 255)[0]
    assert float(black.square().mean()) < 0.1 * float(shown.square().mean())


def test_the_budget_holds(case: Case) -> None:
    assert case.child.marking.status.psnr >= PSNR - 0.01 and case.child.marking.status.worst_psnr >= PSNR - 2.01
    assert case.child.check.worst_psnr > PSNR - 2.5
    assert case.child.check.psnr < PSNR + 3, "the budget is used"


def test_geometry_stays(case: Case) -> None:
    rays = case.parent.meta.training_cameras()[0].rays()
    plain, marked = (method.render_rays(rays) for method in (case.parent.method, case.child.marking.method))
    assert torch.equal(plain.depth, marked.depth) and torch.equal(plain.alpha, marked.alpha)
    assert not torch.equal(plain.rgb, marked.rgb)


def test_the_command_writes_what_it_finds(case: Case, tmp_path: Path, capsys: Capture) -> None:
    found = ("--decoder", case.child.decoder, "--output-dir", tmp_path / "out", "--key", SECRET)
    code, result, said = extract(capsys, case.folder / "marked.png", *found)
    path = tmp_path / "out" / "hidden.png"
    assert code == 0 and result["schema"] == 1 and result["present"] and result["key_matches"] is True
    assert result["payload"] == {"kind": "image", "path": str(path)} and result["probability"] > 0.9
    assert "found a picture in 1 picture" in said and result["p_value"] <= 0.01
    seen, truth = (
        torch.from_numpy(p.copy()).float() / 255 for p in (pixels(path), np.asarray(small_picture().resize((64, 32))))
    )
    assert seen.shape == (32, 64, 3) and ssim(seen, truth) > 0.4


def test_nothing_is_written_when_nothing_is_found(case: Case, tmp_path: Path, capsys: Capture) -> None:
    Image.fromarray(sample_picture(200, 150, 3)).save(tmp_path / "foreign.png")
    for picture in (case.folder / "plain.png", tmp_path / "foreign.png"):
        code, result, said = extract(capsys, picture, "--decoder", case.child.decoder, "--output-dir", tmp_path / "out")
        assert code == 3 and not result["present"] and result["payload"] is None and result["key_matches"] is None
        assert "nothing hidden was found" in said and not (tmp_path / "out").exists()


def test_other_sizes_are_read(case: Case, tmp_path: Path, capsys: Capture) -> None:
    for factor in (0.7, 2.0):
        Image.fromarray(attack_file("resize", pixels(case.folder / "marked.png"), factor)).save(tmp_path / "sized.png")
        words = (tmp_path / "sized.png", "--decoder", case.child.decoder, "--output-dir", tmp_path)
        assert extract(capsys, *words)[0] == 0


def test_mistakes_get_one_line(case: Case, tmp_path: Path, capsys: Capture) -> None:
    picture, decoder = case.folder / "marked.png", ("--decoder", case.child.decoder)
    code, _, said = extract(capsys, picture, *decoder, "--key", "wrong")
    assert code == 2 and "decoder.safetensors: made under another key" in said
    code, _, said = extract(capsys, picture, *decoder, "--expect", "000000000000")
    assert code == 2 and "this decoder reads pictures" in said
    for words, why in (
        (("--text", "hi"), "--text does not go with --image and --audio"),
        (("--audio", "a.wav"), "a picture and a sound were given"),
    ):
        code = main(["stega", "embed", str(tmp_path), "--image", "a.png", "--key", "k", *words])
        assert code == 2 and why in capsys.readouterr().err


def test_the_child_is_a_run_with_its_decoder(case: Case) -> None:
    folder = case.child.path
    mark = json.loads((folder / "mark.json").read_text())
    assert mark["schema"] == 1 and mark["kind"] == "image" and mark["parent"] == str(case.parent.path)
    assert case.child.decoder == folder / "decoder.safetensors" and case.child.decoder.stat().st_size < 4e6
    config = json.loads((folder / "config.json").read_text())
    assert config["method"]["name"] == "marked"
    marked = OpenedRun(folder, case.parent.config, case.parent.meta, case.child.marking.method, 1)
    assert isinstance(marked.method, Marked)
    with pytest.raises(UserError, match="marked already"):
        hide_in_run(marked, None, Key(SECRET), case.hidden, folder, settings=SETTINGS)


def test_the_command_hides_what_it_is_given(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    given: dict = {}

    def hide(parent, scene, key, hidden, output_dir, *, settings, progress):
        given.update(hidden=hidden, settings=settings, output_dir=output_dir)
        return case.child

    monkeypatch.setattr(hidden_run, "hide_in_run", hide)
    monkeypatch.setattr(runs, "open_run", lambda path: case.parent)
    words = ["--image", case.folder / "secret.png", "--key", SECRET, "--steps", 9, "--output-dir", tmp_path]
    assert main(["stega", "embed", "run", *map(str, words), "--json", "-"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["run"] == str(case.child.path) and result["decoder"] == str(case.child.decoder)
    assert given["settings"].embed.steps == 9 and given["output_dir"] == tmp_path
    assert torch.equal(given["hidden"].values, case.hidden.values) and "keep it apart from the run" in said.err


def test_a_sound_has_its_own_shape_and_losses_fall() -> None:
    """On two fixed pictures that differ a little everywhere."""
    torch.manual_seed(0)
    target = torch.zeros(1, 128, 128)
    target[:, 20:60] = 1
    objective = HiddenPicture(PictureDecoder(HiddenForm("audio")), target)
    plain = torch.from_numpy(sample_picture(64, 64)).permute(2, 0, 1).float() / 255
    pair = torch.stack([plain + 0.03, plain])
    losses = []
    for step in range(16):
        loss, _ = objective.loss(pair, 0)
        loss.backward()
        objective.finish_step(step / 16)
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_reading_needs_no_field_and_no_method() -> None:
    code = (
        "import sys, nerfstudio_ext.stages.stega.hidden_extraction, nerfstudio_ext.stages.stega.hidden_payload\n"
        "print([m for m in sys.modules if m.startswith(('nerfstudio_ext.fields', 'nerfstudio_ext.methods'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
