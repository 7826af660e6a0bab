"""The choice of a back end: explicit ones are taken or refused with the reason, `auto` falls back and says so once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nerfstudio_ext import kernels
from nerfstudio_ext.errors import BackendUnavailable, UserError
from nerfstudio_ext.kernels import dispatch

from .cases import make_samples

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_dispatch() -> Iterator[None]:
    dispatch.forget()
    yield
    dispatch.forget()


@pytest.fixture
def without_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sh_encode` on a machine where the CPU kernels do not import."""
    broken = dispatch.Implementation(
        "nerfstudio_ext.kernels.no_such_module:sh_encode", devices=("cpu",), fix="Install it"
    )
    monkeypatch.setitem(dispatch.OPS, "sh_encode", {**dispatch.OPS["sh_encode"], "cpu": broken})


def _imitation(target: str, monkeypatch: pytest.MonkeyPatch, **declared: object) -> None:
    """Let the CPU implementation of `composite` be another function, with other declarations."""
    stand_in = dispatch.Implementation(target, devices=("cpu",), **declared)  # type: ignore[arg-type]
    monkeypatch.setitem(dispatch.OPS, "composite", {**dispatch.OPS["composite"], "cpu": stand_in})


def test_every_operation_is_registered_on_every_back_end() -> None:
    assert all(tuple(row) == dispatch.BACKENDS for row in dispatch.OPS.values())
    assert all(hasattr(kernels, op) and getattr(kernels, op).__doc__ for op in dispatch.OPS)


_GAPS = [(op, backend) for op, row in dispatch.OPS.items() for backend in row if row[backend].missing]


@pytest.mark.parametrize(("op", "backend"), _GAPS)
def test_back_ends_without_an_operation_are_refused_with_the_reason(op: str, backend: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        dispatch.resolve(op, "cuda", backend)
    assert caught.value.op == op and caught.value.backend == backend
    assert "there is no CUDA kernel" in caught.value.reason or "no such operation" in caught.value.reason
    assert caught.value.fix and "\n" not in caught.value.line


@pytest.mark.parametrize("reason", ["", "the compiler is missing"])
def test_a_probe_decides_and_is_asked_once(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    asked: list[int] = []

    def probe() -> str:
        asked.append(1)
        return reason

    monkeypatch.setattr("nerfstudio_ext.kernels.checks.probe", probe, raising=False)
    _imitation("nerfstudio_ext.kernels.reference:composite", monkeypatch, probe="nerfstudio_ext.kernels.checks:probe")
    for _ in range(2):
        assert dispatch.resolve("composite", "cpu").backend == ("reference" if reason else "cpu")
        dispatch._resolve.cache_clear()
    assert len(asked) == 1
    if reason:
        with pytest.raises(BackendUnavailable, match="the compiler is missing"):
            dispatch.resolve("composite", "cpu", "cpu")


def test_explicit_missing_back_end_raises_and_never_falls_back(without_cpu: None) -> None:
    with pytest.raises(BackendUnavailable, match="no_such_module does not import: .*Install it") as caught:
        kernels.sh_encode(torch.randn(3, 3), backend="cpu")
    assert caught.value.backend == "cpu"


def test_auto_falls_back_and_says_why_once(without_cpu: None, caplog: pytest.LogCaptureFixture) -> None:
    d = torch.randn(3, 3)
    with caplog.at_level(logging.WARNING, logger=dispatch.__name__):
        found = kernels.sh_encode(d)
        kernels.sh_encode(d)
        kernels.sh_encode(d.double())
    assert torch.equal(found, kernels.sh_encode(d, backend="reference"))
    assert len(caplog.records) == 1
    assert "sh_encode" in caplog.text and "no_such_module" in caplog.text and "reference" in caplog.text


def test_no_word_about_a_first_choice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=dispatch.__name__):
        assert dispatch.resolve("mlp", "mps").backend == "reference"
    assert not caplog.records


def test_a_module_without_the_function_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    _imitation("nerfstudio_ext.kernels.layouts:composite", monkeypatch)
    with pytest.raises(BackendUnavailable, match="has no function 'composite'"):
        dispatch.resolve("composite", "cpu", "cpu")


def test_a_gradient_that_is_not_declared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _imitation("nerfstudio_ext.kernels.reference:composite", monkeypatch, no_gradient_in=("t_starts", "t_ends"))
    samples = make_samples([4], torch.Generator().manual_seed(0))
    sigmas, rgbs = torch.rand(4, requires_grad=True), torch.rand(4, 3)
    assert dispatch.resolve("composite", "cpu", gradients_in=["sigmas"]).backend == "cpu"
    kernels.composite(sigmas, rgbs, samples, 1, backend="cpu")
    samples.t_starts.requires_grad_()
    with pytest.raises(BackendUnavailable, match="no gradient in t_starts"):
        kernels.composite(sigmas, rgbs, samples, 1, backend="cpu")
    with torch.no_grad():
        kernels.composite(sigmas, rgbs, samples, 1, backend="cpu")
    kernels.composite(sigmas, rgbs, samples, 1).depth.sum().backward()  # auto takes one that has it
    assert samples.t_starts.grad is not None
    assert dispatch.resolve("composite", "cpu", gradients_in=["t_starts"]).backend == "reference"


def test_types_and_devices_are_refused_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    _imitation("nerfstudio_ext.kernels.reference:composite", monkeypatch)
    with pytest.raises(BackendUnavailable, match="float32, and the tensors are float64"):
        dispatch.resolve("composite", "cpu", "cpu", dtype=torch.float64)
    with pytest.raises(BackendUnavailable, match="runs on cpu, and the tensors are on cuda"):
        dispatch.resolve("composite", "cuda", "cpu")
    assert dispatch.resolve("composite", "cpu", dtype=torch.float64).backend == "reference"
    with pytest.raises(BackendUnavailable, match="float16"):
        dispatch.resolve("composite", "cpu", dtype=torch.float16)


def test_unknown_back_end_names_the_known_ones() -> None:
    with pytest.raises(
        UserError, match="unknown back end 'gpu'. Use one of: auto, reference, cpu, cuda, nerfacc, tcnn"
    ):
        kernels.sh_encode(torch.randn(3, 3), backend="gpu")


def test_inputs_must_agree_in_type() -> None:
    with pytest.raises(ValueError, match="weights\\[0\\] torch.float64"):
        kernels.mlp(torch.randn(3, 4), (torch.randn(4, 2).double(),))


@pytest.mark.parametrize(
    "wrong_call",
    [
        lambda: kernels.sh_encode(torch.randn(3, 4)),
        lambda: kernels.mlp(torch.randn(3, 4), (torch.randn(4, 5), torch.randn(6, 2))),
        lambda: kernels.mlp(torch.randn(3, 4), ()),
        lambda: kernels.hash_encode(torch.rand(3, 3), torch.rand(7, 2), kernels.GridLayout(2, 2, 8, 4, 8)),
        lambda: kernels.ray_aabb(torch.rand(3, 3), torch.rand(2, 3), torch.rand(6)),
        lambda: kernels.weights_of(torch.rand(4), make_samples([5], torch.Generator())),
        lambda: kernels.composite(torch.rand(5), torch.rand(5, 4), make_samples([5], torch.Generator()), 1),
        lambda: kernels.composite(torch.rand(5), torch.rand(5, 3), make_samples([5], torch.Generator()), 2),
        lambda: kernels.distortion(torch.rand(4), make_samples([5], torch.Generator())),
        lambda: kernels.occ_refresh(torch.rand(8), torch.tensor([1, 2]), torch.rand(3), 0.9),
    ],
)
def test_shapes_that_do_not_fit_are_refused(wrong_call: object) -> None:
    with pytest.raises(ValueError, match="must "):
        wrong_call()  # type: ignore[operator]


def test_table_lists_everything_with_reasons() -> None:
    rows = kernels.table()
    assert [(row.op, row.backend) for row in rows] == [
        (op, backend) for op in dispatch.OPS for backend in dispatch.BACKENDS
    ]
    assert all(row.reason for row in rows if not row.is_available)
    for op in dispatch.OPS:
        picked = [row.backend for row in rows if row.op == op and "cpu" in row.auto_for]
        assert picked == [dispatch.resolve(op, "cpu").backend]
        assert all(row.is_available for row in rows if row.op == op and row.auto_for)
    if not torch.cuda.is_available():
        assert not any("cuda" in row.auto_for for row in rows)


def test_set_threads() -> None:
    kernels.set_threads(2)
    assert torch.get_num_threads() == 2
    kernels.set_threads(10_000)  # more than numba was started with: it takes what it has
    with pytest.raises(UserError, match="0 threads"):
        kernels.set_threads(0)


_WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch
from nerfstudio_ext import kernels
kernels.set_threads(1)
assert kernels.sh_encode(torch.randn(2, 3)).shape == (2, 16)
row = next(row for row in kernels.table() if (row.op, row.backend) == ("sh_encode", "cpu"))
assert not row.is_available, row
print(row.reason)
"""


def _python(script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_everything_runs_without_numba() -> None:
    assert "import" in _python(_WITHOUT_NUMBA)


def test_import_loads_no_back_end() -> None:
    loaded = _python("import sys, nerfstudio_ext.kernels; print('\\n'.join(sys.modules))").splitlines()
    for module in ("numba", "llvmlite", "nerfacc", "tinycudann", "nerfstudio_ext.kernels.reference"):
        assert module not in loaded
