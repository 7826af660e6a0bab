"""Released Aug-NeRF checkpoints, made by the test itself, become runs that render what the networks say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nerfstudio_ext.cli import main
from nerfstudio_ext.fields.mlp_field import RELEASED_NAMES, MlpField
from nerfstudio_ext.methods.aug_import import PARTS
from nerfstudio_ext.methods.aug_levels import LevelOptions, Stretch, render_levels
from nerfstudio_ext.methods.torch_files import read_torch_file
from nerfstudio_ext.training.runs import open_run

WIDTH = 8


def released_file(path: Path, parts: tuple[str, ...] = ("coarse", "fine", "adversarial"), seed: int = 0) -> Path:
    """A file as the released code writes it: our random networks under its names, beside other things."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in parts:
        for key, value in MlpField(WIDTH, generator).state_dict().items():
            layer, _, kind = key.rpartition(".")
            tensors[f"{PARTS[name]}{RELEASED_NAMES[layer]}.{kind}"] = 1.5 * value
    torch.save({"global_step": 7, "model": tensors, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


def import_it(file: Path, capture: Path, folder: Path) -> int:
    return main(["import", "aug", str(file), "--capture", str(capture), "--output-dir", str(folder)])


def test_a_checkpoint_becomes_a_run_that_renders_what_it_says(tiny_capture: Path, tmp_path: Path):
    file = released_file(tmp_path / "step.ckpt")
    assert import_it(file, tiny_capture, tmp_path) == 0
    opened = open_run(tmp_path)
    assert opened.step == 0
    method, frame = opened.method, opened.meta.frame
    in_training = opened.meta.training_cameras()[0].rays()
    ours = method.render_rays(in_training)
    # The same rays in the frame of the file, with the networks as they were saved.
    clipped, is_hit = method.scene.clipped(in_training)
    in_file = opened.meta.cameras[0].rays()
    stretch = Stretch(clipped.t_min / frame.scale, clipped.t_max / frame.scale)
    networks = (method.scene.coarse, method.scene.fine)
    theirs = render_levels(networks, in_file.rays_o, in_file.rays_d, stretch, LevelOptions(64, 128))[1]
    assert is_hit.any()
    assert frame.scale != 1
    torch.testing.assert_close(ours.rgb[is_hit], theirs.rgb[is_hit].detach(), atol=2e-3, rtol=0)
    torch.testing.assert_close(ours.depth[is_hit], theirs.depth[is_hit].detach() * frame.scale, atol=1e-2, rtol=0)
    saved = read_torch_file(file)["model"]
    assert torch.equal(method.scene.fine.color.weight, saved["nerf_fine.mlp.rgb_linear.weight"])


def test_the_run_can_be_evaluated_and_trained_further(tiny_capture: Path, tmp_path: Path):
    file = released_file(tmp_path / "step.ckpt", parts=("coarse",))
    assert import_it(file, tiny_capture, tmp_path / "out") == 0
    result = tmp_path / "eval.json"
    assert main(["eval", str(tmp_path / "out"), "--max-images", "1", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["n"] == 1
    words = ["train", "--resume", str(tmp_path / "out"), "--max-steps", "1", "--no-viewer", "--max-images", "0"]
    assert main(words) == 0
    assert open_run(tmp_path / "out").step == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"encoder.weight": torch.zeros(2)}}, "no tensors 'nerf.mlp.*'"),
        ({"nerf.mlp.pts_linears.0.weight": torch.zeros(8, 63)}, "nothing for 'points.0.bias'"),
        ({"nerf.mlp.pts_linears.0.weight": torch.zeros(63)}, "is damaged"),
    ],
)
def test_other_files_are_refused_in_one_line(
    content: dict, said: str, tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch.save(content, tmp_path / "x.ckpt")
    assert import_it(tmp_path / "x.ckpt", tiny_capture, tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_values_that_are_not_finite_are_refused(tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = released_file(tmp_path / "x.ckpt")
    content = read_torch_file(file)
    content["model"]["nerf_fine.mlp.rgb_linear.bias"][0] = float("nan")
    torch.save(content, file)
    assert import_it(file, tiny_capture, tmp_path / "out") == 2
    assert "network 'fine' is damaged" in capsys.readouterr().err


def test_the_capture_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = released_file(tmp_path / "x.ckpt")
    assert main(["import", "aug", str(file)]) == 2
    assert "--capture" in capsys.readouterr().err
