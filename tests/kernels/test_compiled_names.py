"""Variants of one kernel have names of their own: equal ones are mixed up when only some come from the cache."""

from __future__ import annotations

import inspect

from nerfstudio_ext.kernels import cpu_gemm


def test_no_two_variants_share_a_name() -> None:
    products = (cpu_gemm.gemm, cpu_gemm.gemm_add, cpu_gemm.gemm_relu)
    functions = [product.py_func for product in products]
    for function in list(functions):
        inner = inspect.getclosurevars(function).nonlocals
        functions += [inner[name].py_func for name in ("tall", "short", "single")]
    names = [function.__qualname__ for function in functions]
    assert len(names) == 12
    assert len(set(names)) == len(names), "numba tells functions apart by these names"
