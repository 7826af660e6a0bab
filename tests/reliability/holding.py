"""One row of a table held: the input made, `nsx` run on it, and everything checked that a refusal promises."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from tests.reliability.cases import Row
from tests.reliability.nsx_process import Ended, assert_one_line, run_nsx, unchanged

MAX_SECONDS, MAX_GROWN_MB = 10.0, 250.0
"""Of one refusal; measured 0.1 s and 20 MB, the most memory by the 64 MB of JSON that are read."""
BAIT = "outside"
"""Folder beside the input that malicious input points to; nothing in it may be opened."""
_FOREIGN = ("/etc/passwd", "/dev/zero", "/dev/random")


def hold_row(row: Row, tmp_path: Path, *, input_may_gain: tuple[str, ...] = ()) -> Ended:
    """Make a row's input in `tmp_path/in`, run its words in `tmp_path`, and hold the whole promise.

    Args:
        row: The row.
        tmp_path: An empty folder; everything in it must stay as the row has made it.
        input_may_gain: Paths relative to `tmp_path` that may appear, such as the log of a solver.
    """
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(zlib.crc32(str(row).encode()))
    words = list(row.make(folder, rng))
    with unchanged(tmp_path, but=input_may_gain):
        ended = run_nsx(words, folder=tmp_path, seconds=2 * MAX_SECONDS)
    assert_one_line(ended, row.code, names=row.names, says=row.says)
    assert ended.seconds < MAX_SECONDS, f"{ended.seconds:.1f} s for a refusal"
    assert ended.grown_mb < MAX_GROWN_MB, f"{ended.grown_mb:.0f} MB for a refusal"
    assert_nothing_foreign(ended, tmp_path)
    return ended


def assert_nothing_foreign(ended: Ended, tmp_path: Path) -> None:
    """Hold that no file of `_FOREIGN` or below `tmp_path/outside` was opened, by whatever name or link."""
    bait = tmp_path / BAIT
    for name in ended.opened:
        path = Path(os.path.realpath(tmp_path / name))
        assert str(path) not in _FOREIGN and not path.is_relative_to(bait), f"{name} was opened"
