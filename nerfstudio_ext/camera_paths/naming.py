"""File names for pictures of a path or of a capture's views."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence


def file_stems(names: Sequence[str]) -> list[str]:
    """A file name without suffix for each image name, all different.

    Names lose their folder and suffix where the rest is still unique. Only characters that every file system takes
    are kept, so a name read from a file can never leave the folder it is used in.
    """
    parts = [name.replace("\\", "/").split("/") for name in names]
    safe: list[str] = []
    for stems in (
        [os.path.splitext(p[-1])[0] for p in parts],
        [p[-1] for p in parts],
        ["__".join(p) for p in parts],
    ):
        safe = [re.sub(r"[^\w.+ -]", "_", stem).strip(". ")[:120] for stem in stems]
        if all(safe) and len({s.casefold() for s in safe}) == len(safe):
            return safe
    return [f"{i + 1:05d}_{stem}" for i, stem in enumerate(safe)]


def numbered_stems(numbers: Iterable[int]) -> list[str]:
    """`frame_00001` for the number 0, and so on."""
    return [f"frame_{i + 1:05d}" for i in numbers]
