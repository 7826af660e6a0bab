"""Every operation on every back end against the float64 reference: values, gradients, and awkward inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import dispatch

from .cases import (
    CASES,
    OWN_FILES,
    SAMPLE_CASES,
    Case,
    Result,
    device_of,
    evaluate,
    make_samples,
    relative_error,
    runnable,
    unavailable,
)
from .tolerances import THREADS, TOLERANCES

SIZES = (1, 31, 127, 4097)


def _pairs(ops: list[str]) -> list[object]:
    return [pytest.param(op, backend, id=f"{op}-{backend}") for op in ops for backend in runnable(op)]


every_pair = pytest.mark.parametrize(("op", "backend"), _pairs(list(CASES)))
sample_pair = pytest.mark.parametrize(("op", "backend"), _pairs(list(SAMPLE_CASES)))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _run(case: Case, backend: str, *, strided: bool = False) -> Result:
    """Run in float32, with all gradients the back end declares."""
    without = dispatch.OPS[case.op][backend].no_gradient_in
    return evaluate(case, backend, torch.float32, device_of(case.op, backend), without=without, strided=strided)


def _check(case: Case, backend: str, result: Result) -> None:
    truth = evaluate(case, "reference", torch.float64)
    found, expected = {**result.outputs, **result.gradients}, {**truth.outputs, **truth.gradients}
    absent = {f"grad {name}" for name in dispatch.OPS[case.op][backend].no_gradient_in}
    assert set(found) == set(expected) - absent
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        error = relative_error(value, expected[name])
        assert error <= TOLERANCES[case.op, name].bound, f"{name} is off by {error:.2e} of its largest value"


def test_every_operation_has_a_case() -> None:
    missing = set(dispatch.OPS) - set(CASES) - set(OWN_FILES)
    assert not missing, f"add {sorted(missing)} to CASES in cases.py, or name their test file in OWN_FILES"
    assert all((Path(__file__).parent / name).is_file() for name in OWN_FILES.values())


@pytest.mark.parametrize("row", unavailable(), ids=lambda row: f"{row.op}-{row.backend}")
def test_what_cannot_run_here(row: dispatch.TableRow) -> None:
    pytest.skip(f"{row.backend}: {row.reason}")


@pytest.mark.parametrize("n", SIZES)
@every_pair
def test_values_and_gradients(op: str, backend: str, n: int) -> None:
    case = CASES[op](n, _generator())
    _check(case, backend, _run(case, backend))


@every_pair
def test_empty_input(op: str, backend: str) -> None:
    case = CASES[op](0, _generator())
    result = _run(case, backend)
    _check(case, backend, result)
    assert all(not gradient.any() for gradient in result.gradients.values())


@pytest.mark.parametrize("counts", [[0], [0, 0, 5], [4, 0, 3], [5, 0, 0]], ids=str)
@sample_pair
def test_rays_without_samples(op: str, backend: str, counts: list[int]) -> None:
    generator = _generator()
    case = SAMPLE_CASES[op](make_samples(counts, generator), generator)
    result = _run(case, backend)
    _check(case, backend, result)
    if op != "weights_of":
        empty = torch.tensor(counts) == 0
        assert all(not out[empty].any() for out in result.outputs.values())


@every_pair
def test_inputs_with_gaps_in_memory(op: str, backend: str) -> None:
    case = CASES[op](127, _generator())
    _check(case, backend, _run(case, backend, strided=True))


@every_pair
def test_inputs_are_not_modified(op: str, backend: str) -> None:
    case = CASES[op](127, _generator())
    inputs = {name: tensor.to(device_of(op, backend), copy=True) for name, tensor in case.tensors.items()}
    with torch.no_grad():
        case.run(inputs, backend)
    assert all(torch.equal(tensor.cpu(), case.tensors[name]) for name, tensor in inputs.items())


@every_pair
def test_two_runs_are_equal(op: str, backend: str) -> None:
    if not dispatch.OPS[op][backend].is_deterministic:
        pytest.skip(f"{op} on {backend} declares that it is not deterministic")
    case = CASES[op](4097, _generator())
    first, second = _run(case, backend), _run(case, backend)
    for name, value in {**first.outputs, **first.gradients}.items():
        assert torch.equal(value, {**second.outputs, **second.gradients}[name]), name


@every_pair
def test_two_threads_agree_with_one(op: str, backend: str) -> None:
    case = CASES[op](4097, _generator())
    one = _run(case, backend)
    kernels.set_threads(2)
    two = _run(case, backend)
    for name, value in {**two.outputs, **two.gradients}.items():
        error = relative_error(value, {**one.outputs, **one.gradients}[name])
        assert error <= THREADS.bound, f"{name} differs by {error:.2e}"


@pytest.mark.parametrize(("op", "backend"), _pairs(["hash_encode", "sh_encode", "mlp", "weights_of", "distortion"]))
def test_second_derivatives_are_right_or_refused(op: str, backend: str) -> None:
    """A gradient made by compiled code has no graph; used in a loss it must raise, not count as a constant."""
    case = CASES[op](5, _generator())
    name = case.differentiable[0]
    device = device_of(op, backend)
    tensors = {key: tensor.to(device, copy=True) for key, tensor in case.tensors.items()}
    leaf = tensors[name].requires_grad_()
    (first,) = torch.autograd.grad(
        sum(out.square().sum() for out in case.run(tensors, backend).values()), leaf, create_graph=True
    )
    loss = first.square().sum() + leaf.sum()  # the second term alone would let a wrong gradient through
    if backend != "reference":
        with pytest.raises(RuntimeError, match="once_differentiable"):
            loss.backward()
    else:
        loss.backward()
        assert leaf.grad is not None and (leaf.grad - 1).abs().max() > 1e-5


@pytest.mark.parametrize(
    "sigmas",
    [[1e8] * 6, [0.0] * 6, [1e-30, 1e8, 0.0, 1e8, 1.0, 1e-8], [3e38, 0.0, 3e38, 1.0, 1e20, 1e-38]],
    ids=["opaque", "empty", "mixed", "overflowing"],
)
@pytest.mark.parametrize("stretch", [1.0, 1e6], ids=["short", "long"])
@pytest.mark.parametrize(("op", "backend"), _pairs(["weights_of", "composite"]))
def test_extreme_densities_give_finite_gradients(op: str, backend: str, sigmas: list[float], stretch: float) -> None:
    generator = _generator()
    samples = make_samples([6], generator)
    stretched = type(samples)(
        samples.ray_indices, samples.t_starts * stretch, samples.t_ends * stretch, samples.packed_info
    )
    case = SAMPLE_CASES[op](stretched, generator)
    case.tensors["sigmas"] = torch.tensor(sigmas)
    result = _run(case, backend)
    assert all(value.isfinite().all() for value in {**result.outputs, **result.gradients}.values())
    if max(sigmas) <= 1e8:
        _check(case, backend, result)
    alpha = result.outputs["alpha"] if op == "composite" else result.outputs["weights"].sum()
    assert 0 <= float(alpha) <= 1 + 1e-6


@pytest.mark.parametrize(("op", "backend"), _pairs(["mlp"]))
def test_large_activations_give_finite_gradients(op: str, backend: str) -> None:
    case = CASES[op](31, _generator())
    case.tensors["x"] = case.tensors["x"] * 1e8
    _check(case, backend, _run(case, backend))


@pytest.mark.parametrize(("op", "backend"), _pairs(["hash_encode"]))
def test_positions_outside_count_as_the_nearest_inside(op: str, backend: str) -> None:
    case = CASES[op](0, _generator())
    outside = torch.tensor([[-3.0, 0.5, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1e30, 0.25, -1e30], [2.0, 1.5, 7.0]])
    device = device_of(op, backend)
    table = case.tensors["table"].to(device)
    with torch.no_grad():
        found = case.run({"x_unit": outside.to(device), "table": table}, backend)["features"]
        expected = case.run({"x_unit": outside.clamp(0, 1).to(device), "table": table}, backend)["features"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("op", ["sh_encode", "mlp", "weights_of", "composite", "distortion"])
def test_reference_gradients_match_finite_differences(op: str) -> None:
    """`hash_encode` is checked in test_encodings.py, on a table small enough for it."""
    case = CASES[op](2, _generator())
    constants = {name: tensor for name, tensor in case.tensors.items() if name not in case.differentiable}
    constants = {n: t.double() if t.is_floating_point() else t for n, t in constants.items()}
    leaves = [case.tensors[name].double().requires_grad_() for name in case.differentiable]

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            case.run({**constants, **dict(zip(case.differentiable, values, strict=True))}, "reference").values()
        )

    assert torch.autograd.gradcheck(function, leaves)
