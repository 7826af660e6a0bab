"""Starting `nsx` in a process of its own, wherever this package lies."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def python_words() -> list[str]:
    """Python without the folder somebody happens to stand in among the places where it looks for modules."""
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else [])]


def nsx_words(words: Sequence[str]) -> list[str]:
    """The words that run `nsx WORDS`."""
    return [*python_words(), "-m", "nerfstudio_ext", *words]


def environ_for(threads: int | None) -> dict[str, str]:
    """This process's variables, with this package to be found, and a number of threads where one is given."""
    inherited = os.environ.get("PYTHONPATH")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_PACKAGE_PARENT), *([inherited] if inherited else [])])}
    if threads is not None:
        environ |= {name: str(threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    return environ
