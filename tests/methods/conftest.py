"""Methods are tested on one thread: small batches on two wait for each other longer than they work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nerfstudio_ext import kernels


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    kernels.set_threads(1)
    yield
    kernels.set_threads(threads)
