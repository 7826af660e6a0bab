"""Where compiled CPU kernels are kept between runs.

Numba notices a change of a function's own file only. Ours call across files, so the folder is named after the contents
of all of them. Import this before any kernel is defined.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numba


def cache_folder() -> Path:
    """The folder for this version of the kernels; in the user's cache, or in a temporary place where there is none."""
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("cpu*.py")):
        digest.update(source.read_bytes())
    base = getattr(numba.config, "CACHE_DIR", "") or _user_cache() / "nerfstudio-ext" / "kernels"
    return Path(base) / digest.hexdigest()[:16]


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    candidates = [Path(named)] if named else []
    with contextlib.suppress(RuntimeError):  # there may be no home folder
        candidates.append(Path.home() / ".cache")
    for candidate in candidates:
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(candidate, os.W_OK):
            return candidate
    return Path(tempfile.gettempdir())


setattr(numba.config, "CACHE_DIR", str(cache_folder()))  # noqa: B010  # made at import, unknown to type checkers
