"""Which implementation of an operation runs: one table, and the rule that picks from it.

An explicit back end is taken or refused with the reason; `auto` takes the first one that can do the work and says once
per operation when that is not the first choice. Nothing is imported before its first use. To add an operation, add its
row to `OPS` and its public function, with the contract as docstring, to `nerfstudio_ext.kernels`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendUnavailable, UserError

BACKENDS = ("reference", "cpu", "cuda", "nerfacc", "tcnn")
AUTO_ORDER: Mapping[str, tuple[str, ...]] = {
    "cpu": ("cpu", "reference"),
    "cuda": ("cuda", "nerfacc", "reference"),
}
"""Order of preference by device. tiny-cuda-nn computes in half precision, so it runs only where it is asked for."""

_log = logging.getLogger(__name__)
_announced: set[str] = set()


@dataclass(frozen=True)
class Implementation:
    """One operation on one back end, and what it declares about itself.

    Attributes:
        target: `module:function`, imported at the first use.
        devices: Device types it runs on; empty means any.
        dtypes: Types of its floating-point inputs.
        no_gradient_in: Inputs the contract calls differentiable, for which it has no gradient.
        is_deterministic: Whether equal inputs give bit-equal outputs on one thread count.
        missing: Why it does not exist, when it does not.
        fix: What to do when it cannot be used.
        probe: `module:function` that looks once whether the machine can run it, and returns why not or "".
    """

    target: str
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    no_gradient_in: tuple[str, ...] = ()
    is_deterministic: bool = True
    missing: str = ""
    fix: str = "Use back end 'auto' or 'reference'"
    probe: str = ""


@dataclass(frozen=True)
class Resolved:
    """The outcome of choosing: the back end's name and the function to call."""

    backend: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class TableRow:
    """One line of `table()`.

    Attributes:
        op: Operation.
        backend: Back end.
        is_available: Whether it can run on this machine.
        reason: Why it cannot; when it can, what it does not support (may be empty).
        auto_for: Device types for whose float32 tensors `auto` picks this back end.
    """

    op: str
    backend: str
    is_available: bool
    reason: str
    auto_for: tuple[str, ...]


def _row(
    op: str,
    *,
    reference: str = "nerfstudio_ext.kernels.reference",
    cpu: str = "nerfstudio_ext.kernels.cpu",
    cpu_no_gradient_in: tuple[str, ...] = (),
    cuda: str = "",
    cuda_is_deterministic: bool = True,
    in_nerfacc: bool = False,
    in_tcnn: bool = False,
) -> dict[str, Implementation]:
    """One operation on every back end; `reference`, `cpu` and `cuda` are modules that hold the function named `op`."""

    def adapter(library: str, module: str, has_op: bool) -> Implementation:
        if not has_op:
            return Implementation("", devices=("cuda",), missing=f"{library} has no such operation")
        # Sums of both libraries use atomics.
        return Implementation(
            f"{_HERE}.{module}:{op}",
            devices=("cuda",),
            is_deterministic=False,
            probe=f"{_HERE}.{module}:absence",
        )

    return {
        "reference": Implementation(f"{reference}:{op}", dtypes=(torch.float32, torch.float64)),
        "cpu": Implementation(
            f"{cpu}:{op}",
            devices=("cpu",),
            no_gradient_in=cpu_no_gradient_in,
            fix="Install numba (pip install numba), or use back end 'auto' or 'reference'",
        ),
        "cuda": Implementation(
            f"{_HERE}.{cuda}:{op}" if cuda else "",
            devices=("cuda",),
            is_deterministic=cuda_is_deterministic,
            missing="" if cuda else "there is no CUDA kernel for it",
            probe=f"{_HERE}.rtc:absence",
        ),
        "nerfacc": adapter("nerfacc", "adapter_nerfacc", in_nerfacc),
        "tcnn": adapter("tiny-cuda-nn", "adapter_tcnn", in_tcnn),
    }


_HERE = "nerfstudio_ext.kernels"
_FUSED = "nerfstudio_ext.kernels.reference_fused"
_CPU_FUSED = "nerfstudio_ext.kernels.cpu_field"
_CPU_OCCUPANCY = "nerfstudio_ext.kernels.cpu_occupancy"
_CPU_COLOR = "nerfstudio_ext.kernels.cpu_color"
_SECTORS = "nerfstudio_ext.kernels.reference_sectors"
_CPU_SECTORS = "nerfstudio_ext.kernels.cpu_sectors"
_DISTURBED = "nerfstudio_ext.kernels.reference_disturbed"
_CPU_DISTURBED = "nerfstudio_ext.kernels.cpu_disturbed"
_VIEWS = "nerfstudio_ext.kernels.reference_views"
_CPU_VIEWS = "nerfstudio_ext.kernels.cpu_view_ops"
_CUDA_FIELD = "cuda_field"

OPS: dict[str, dict[str, Implementation]] = {
    "hash_encode": _row("hash_encode", cuda="cuda_hash", cuda_is_deterministic=False, in_tcnn=True),
    "sh_encode": _row("sh_encode", in_tcnn=True),
    "hash_color": _row("hash_color", cpu=_CPU_COLOR),
    "sector_color": _row("sector_color", reference=_SECTORS, cpu=_CPU_SECTORS),
    "mlp": _row("mlp", in_tcnn=True),
    "ray_aabb": _row("ray_aabb", cuda="cuda", in_nerfacc=True),
    "march": _row("march", cuda="cuda", in_nerfacc=True),
    "weights_of": _row("weights_of", cuda="cuda", cpu_no_gradient_in=("t_starts", "t_ends"), in_nerfacc=True),
    "composite": _row("composite", cuda="cuda", cpu_no_gradient_in=("t_starts", "t_ends"), in_nerfacc=True),
    "distortion": _row("distortion", cpu_no_gradient_in=("t_starts", "t_ends")),
    "occ_refresh": _row("occ_refresh", cpu=_CPU_OCCUPANCY, cuda="cuda"),
    "occ_pack": _row("occ_pack", cpu=_CPU_OCCUPANCY, cuda="cuda"),
    "occ_select": _row("occ_select", cpu=_CPU_OCCUPANCY, cuda="cuda"),
    # The gradient of the table is a sum of atomics; `StepOptions.deterministic` asks for a fixed order.
    "field_step": _row("field_step", reference=_FUSED, cpu=_CPU_FUSED, cuda=_CUDA_FIELD, cuda_is_deterministic=False),
    "render_field": _row("render_field", reference=_FUSED, cpu=_CPU_FUSED, cuda=_CUDA_FIELD),
    "field_density": _row("field_density", reference=_FUSED, cpu=_CPU_FUSED, cuda=_CUDA_FIELD),
    "seen_samples": _row("seen_samples", reference=_DISTURBED, cpu=_CPU_DISTURBED),
    "disturbed_loss": _row("disturbed_loss", reference=_DISTURBED, cpu=_CPU_DISTURBED),
    "view_maximum": _row("view_maximum", reference=_VIEWS, cpu=_CPU_VIEWS),
    "view_attention": _row("view_attention", reference=_VIEWS, cpu=_CPU_VIEWS),
    "feed_forward": _row(
        "feed_forward",
        reference=_VIEWS,
        cpu="nerfstudio_ext.kernels.cpu_tokens",
        cpu_no_gradient_in=("x", "gain", "offset", "first", "first_bias", "second", "second_bias"),
    ),
}
"""Every operation on every back end."""


def call(op: str, backend: str, arguments: tuple[Any, ...], **inputs: Tensor) -> Any:
    """Run an operation on the back end that `backend` stands for.

    Args:
        op: A key of `OPS`.
        backend: A back end or "auto".
        arguments: Positional arguments of the implementation.
        inputs: The tensors among them that decide the choice, by name: all floating-point ones, and any other whose
            device must agree.
    Returns:
        What the implementation returns.
    Raises:
        BackendUnavailable: if an explicit back end cannot do it.
        UserError: if there is no back end of that name.
        ValueError: if the tensors lie on different devices or mix floating-point types.
    """
    devices = {tensor.device.type for tensor in inputs.values()}
    dtypes = {tensor.dtype for tensor in inputs.values() if tensor.is_floating_point()}
    if len(devices) != 1 or len(dtypes) > 1:
        described = ", ".join(f"{name} {tensor.dtype} on {tensor.device}" for name, tensor in inputs.items())
        raise ValueError(f"{op}: inputs must share one device and one floating-point type, got {described}")
    wants_gradient = torch.is_grad_enabled()
    gradients_in = [name for name, tensor in inputs.items() if wants_gradient and tensor.requires_grad]
    dtype = dtypes.pop() if dtypes else torch.float32
    return resolve(op, devices.pop(), backend, dtype=dtype, gradients_in=gradients_in).function(*arguments)


def resolve(
    op: str,
    device: torch.device | str,
    backend: str = "auto",
    *,
    dtype: torch.dtype = torch.float32,
    gradients_in: Iterable[str] = (),
) -> Resolved:
    """Choose the implementation of an operation.

    Args:
        op: A key of `OPS`.
        device: Where the tensors are.
        backend: A back end or "auto".
        dtype: Type of the floating-point inputs.
        gradients_in: Names of the inputs that need gradients.
    Returns:
        The back end and its function.
    Raises:
        BackendUnavailable: if an explicit back end cannot do it, with the reason and what to do.
        UserError: if there is no back end of that name.
    """
    return _resolve(op, torch.device(device).type, backend, dtype, frozenset(gradients_in))


@lru_cache(maxsize=1024)
def _resolve(op: str, device: str, backend: str, dtype: torch.dtype, gradients_in: frozenset[str]) -> Resolved:
    if backend != "auto":
        check_backend(backend)
        reason = _refusal(op, backend, device, dtype, gradients_in)
        if reason:
            raise BackendUnavailable(op, backend, reason, OPS[op][backend].fix)
        return Resolved(backend, _function(op, backend))
    reasons: list[str] = []
    for candidate in AUTO_ORDER.get(device, ("reference",)):
        reason = _refusal(op, candidate, device, dtype, gradients_in)
        if not reason:
            _announce_fallback(op, candidate, reasons)
            return Resolved(candidate, _function(op, candidate))
        reasons.append(f"'{candidate}': {reason}")
    raise BackendUnavailable(op, "auto", "; ".join(reasons), "Use float32 or float64 tensors")


def check_backend(backend: str) -> None:
    """Raise `UserError` unless `backend` is "auto" or a known back end."""
    if backend != "auto" and backend not in BACKENDS:
        raise UserError(f"unknown back end '{backend}'", fix=f"Use one of: auto, {', '.join(BACKENDS)}.")


def table() -> list[TableRow]:
    """List every operation on every back end: what this machine can run, why not, and what `auto` picks.

    Imports the implementations, so it takes as long as their first use.
    """
    rows = []
    for op, implementations in OPS.items():
        picks = {device: _first_available(op, device) for device in AUTO_ORDER}
        for backend, implementation in implementations.items():
            missing = _absence(op, backend)
            auto_for = tuple(device for device, pick in picks.items() if pick == backend)
            rows.append(TableRow(op, backend, not missing, missing or _limits(implementation), auto_for))
    return rows


def forget() -> None:
    """Drop what was remembered about availability and announcements, so that the next call looks again."""
    _resolve.cache_clear()
    _load.cache_clear()
    _probed.cache_clear()
    _announced.clear()


def _first_available(op: str, device: str) -> str | None:
    if device == "cuda" and not torch.cuda.is_available():
        return None
    candidates = AUTO_ORDER[device]
    return next((name for name in candidates if not _refusal(op, name, device, torch.float32, frozenset())), None)


def _refusal(op: str, backend: str, device: str, dtype: torch.dtype, gradients_in: frozenset[str]) -> str:
    """Why a back end cannot do this work; empty when it can."""
    implementation = OPS[op][backend]
    absence = _absence(op, backend)
    if absence:
        return absence
    if implementation.devices and device not in implementation.devices:
        return f"it runs on {' and '.join(implementation.devices)}, and the tensors are on {device}"
    if dtype not in implementation.dtypes:
        return f"it computes in {_type_names(implementation)}, and the tensors are {_type_name(dtype)}"
    without = sorted(gradients_in.intersection(implementation.no_gradient_in))
    if without:
        return f"it has no gradient in {', '.join(without)}"
    return ""


def _absence(op: str, backend: str) -> str:
    """Why a back end does not exist on this machine; empty when it does."""
    implementation = OPS[op][backend]
    if implementation.missing:
        return implementation.missing
    if implementation.devices == ("cuda",) and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    reason = _probed(implementation.probe) if implementation.probe else ""
    if reason:
        return reason
    loaded = _load(implementation.target)
    return loaded if isinstance(loaded, str) else ""


def _function(op: str, backend: str) -> Callable[..., Any]:
    loaded = _load(OPS[op][backend].target)
    assert not isinstance(loaded, str)  # _refusal has looked
    return loaded


@cache
def _load(target: str) -> Callable[..., Any] | str:
    """The function that `module:function` names, or why there is none."""
    module_name, _, function_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, OSError) as error:  # OSError: a shared library of numba or a driver does not load
        return f"{module_name.rpartition('.')[2]} does not import: {error}"
    function = getattr(module, function_name, None)
    return function if callable(function) else f"{module_name} has no function '{function_name}'"


@cache
def _probed(target: str) -> str:
    """What the probe `module:function` found missing; empty when the machine has everything."""
    probe = _load(target)
    return probe if isinstance(probe, str) else str(probe())


def _announce_fallback(op: str, chosen: str, reasons: list[str]) -> None:
    if reasons and op not in _announced:
        _announced.add(op)
        _log.warning("%s runs on back end '%s' (%s)", op, chosen, "; ".join(reasons))


def _limits(implementation: Implementation) -> str:
    limits = [_type_names(implementation)]
    if implementation.no_gradient_in:
        limits.append(f"no gradient in {', '.join(implementation.no_gradient_in)}")
    if not implementation.is_deterministic:
        limits.append("not deterministic")
    return "; ".join(limits)


def _type_names(implementation: Implementation) -> str:
    return " and ".join(_type_name(dtype) for dtype in implementation.dtypes)


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
