"""Shape checks in front of the kernels: compiled code would read past the end of a tensor of the wrong shape."""

from __future__ import annotations

from torch import Tensor

from ..rays import Samples


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise `ValueError` unless a tensor has the expected shape; None stands for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(e is not None and s != e for s, e in zip(shape, expected, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(shape)}")


def check_samples(samples: Samples, **per_sample: Tensor) -> None:
    """Raise `ValueError` unless all parts of `samples` and the given tensors have one entry per sample."""
    n_samples = samples.t_starts.shape[0]
    check_shape("samples.t_ends", samples.t_ends, (n_samples,))
    check_shape("samples.ray_indices", samples.ray_indices, (n_samples,))
    check_shape("samples.packed_info", samples.packed_info, (None, 2))
    for name, tensor in per_sample.items():
        check_shape(name, tensor, (n_samples,))
