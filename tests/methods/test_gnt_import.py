"""Official checkpoints become files of ours; whatever is wrong with one is said in one line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.cli.entry import main
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.gnt_weights import Architecture, GntModel, load_gnt, save_gnt

SMALL = Architecture(depth=3, width=16, n_features=8, feature_width=8, feature_blocks=(1, 2, 1))


def small_model(seed: int = 0) -> GntModel:
    return GntModel(SMALL, torch.Generator().manual_seed(seed))


def official(model: GntModel, prefix: str = "") -> dict[str, object]:
    """What the official code saves."""
    nets = {"net_coarse": model.net_coarse, "feature_net": model.feature_net}
    weights = {k: {prefix + name: t.clone() for name, t in net.state_dict().items()} for k, net in nets.items()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return {**weights, "optimizer": optimizer.state_dict(), "scheduler": {"step_size": 50000, "last_epoch": 7}}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_survive(tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]):
    model = small_model()
    source, target = tmp_path / "model_000012.pth", tmp_path / "small.safetensors"
    torch.save(official(model, prefix), source)
    assert main(["import", "gnt", str(source), "--output-path", str(target)]) == 0
    assert "depth 3" in capsys.readouterr().out
    found, notes = load_gnt(target)
    assert found.architecture == SMALL
    assert notes["step"] == "12"
    for (name, a), b in zip(model.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert main(["import", "gnt", str(source), "--output-path", str(target)]) == 2, "an existing file is kept"


def test_half_the_bytes_keep_the_picture(tmp_path: Path):
    model = small_model()
    save_gnt(model, tmp_path / "half.safetensors", dtype=torch.float16)
    found, _ = load_gnt(tmp_path / "half.safetensors")
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = model.feature_net(pictures), found.feature_net(pictures)
    assert float((a - b).abs().max()) < 0.02 * float(a.abs().max())


def _without(data: dict, net: str, name: str) -> dict:
    del data[net][name]
    return data


def _wrong_shape(data: dict) -> dict:
    data["net_coarse"]["norm.weight"] = torch.ones(17)
    return data


def _odd_width(data: dict) -> dict:
    data["net_coarse"]["rgb_fc.weight"] = torch.ones(3, 20)
    return data


BAD = {
    "no network": (lambda data: {"state_dict": data["net_coarse"]}, "no 'net_coarse' in it"),
    "missing": (lambda data: _without(data, "feature_net", "layer2.1.bn1.bias"), "'feature_net.layer2.1.bn1.bias'"),
    "shape": (_wrong_shape, "expected (16,), found (17,)"),
    "width": (_odd_width, "width 20"),
    "two networks": (lambda data: data | {"net_fine": data["net_coarse"]}, "second network"),
    "not finite": (lambda data: _spoilt(data), "not all finite"),
    "a list": (lambda data: [1, 2], "holds a list"),
}


def _spoilt(data: dict) -> dict:
    data["feature_net"]["out_conv.bias"][3] = float("nan")
    return data


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints_are_explained(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    change, expected = BAD[name]
    source = tmp_path / "model.pth"
    torch.save(change(official(small_model())), source)
    assert main(["import", "gnt", str(source), "--output-path", str(tmp_path / "x.safetensors")]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.safetensors").exists()


class _Runs:
    """Something that would run code when a careless program loads it."""

    def __reduce__(self):
        return (print, ("this was run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "model.pth"
    torch.save(official(small_model()) | {"extra": _Runs()}, source)
    assert main(["import", "gnt", str(source), "--output-path", str(tmp_path / "x.safetensors")]) == 2
    said = capsys.readouterr()
    assert "this was run" not in said.out
    assert "holds more than tensors" in said.err


@pytest.mark.parametrize("cut", [0, 10, 1000, -100])
def test_cut_files_are_explained(tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "model.pth"
    torch.save(official(small_model()), source)
    source.write_bytes(source.read_bytes()[:cut])
    assert main(["import", "gnt", str(source), "--output-path", str(tmp_path / "x.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_other_files_are_no_weights(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_gnt(path)
    path.write_bytes(b"{}" * 50)
    with pytest.raises(UserError, match="not a tensor file"):
        load_gnt(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match="not a tensor file"):
        load_gnt(path)
