"""Where a user's compiled kernels may be kept between runs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def user_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache folder if it can be written to, else the system's folder for temporary files."""
    candidates = [Path(named) for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA") if (named := environ.get(variable))]
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
