"""`--device`: what it means on this machine, and what is said when it cannot be had."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nerfstudio_ext import methods
from nerfstudio_ext.cli import main
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.kernels import rtc
from nerfstudio_ext.methods.ngp import NgpConfig


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_auto_without_a_gpu_is_the_cpu(without_gpu: None) -> None:
    assert methods.device_for(NgpConfig(), "auto") == methods.device_for(NgpConfig(), "cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="torch finds no CUDA device .*--device cpu"):
        methods.device_for(NgpConfig(), "cuda")


def test_auto_with_a_gpu_is_the_gpu_for_methods_that_run_there(with_gpu: None) -> None:
    assert methods.device_for(NgpConfig(), "auto") == torch.device("cuda")
    assert methods.device_for(methods.AugConfig(), "auto") == torch.device("cpu")
    with pytest.raises(UserError, match="aug runs on the CPU only"):
        methods.device_for(methods.AugConfig(), "cuda")


def test_defaults_follow_the_device_and_what_was_set_stays() -> None:
    gpu = torch.device("cuda")
    assert methods.for_device(NgpConfig(), torch.device("cpu")) == NgpConfig()
    chosen = methods.for_device(NgpConfig(log2_table=15), gpu)
    assert chosen.log2_table == 15 and chosen.samples_per_batch == 1 << 18 and chosen.n_levels == 16
    assert methods.for_device(methods.AugConfig(), gpu) == methods.AugConfig()
    same = {f.name for f in dataclasses.fields(NgpConfig)} - {
        "n_levels", "log2_table", "finest_resolution", "samples_per_batch",
    }  # fmt: skip
    assert all(getattr(methods.for_device(NgpConfig(), gpu), name) == getattr(NgpConfig(), name) for name in same)


@pytest.mark.parametrize("command", ["eval", "view", "render"])
def test_a_device_that_is_not_there_is_one_line(
    command: str, tiny_run: object, without_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tiny_run), "--device", "cuda"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: --device cuda: torch finds no CUDA device")


def test_the_cuda_benchmark_needs_a_gpu_and_says_so(without_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    rtc.absence.cache_clear()
    try:
        assert main(["bench", "cuda"]) == 2
    finally:
        rtc.absence.cache_clear()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: nsx bench cuda: torch finds no CUDA device")
