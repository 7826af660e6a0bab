"""Looking for the poses of a folder of photos, with the real solver or with one that plays a part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tests.reliability.corpus_photos import process
from tests.reliability.nsx_process import Ended, run_nsx, unchanged

HERE = Path(__file__).parent
_FAKE = os.pathsep.join([str(HERE / "fake_pycolmap"), str(HERE.parents[1])])


def solved(
    folder: Path, part: str | None = "place:99", answer: Mapping[str, object] | None = None, *more: str
) -> Ended:
    """Run `nsx process` on a folder into `out` beside it; the folder must stay as it is.

    Args:
        folder: The photos.
        part: Part that the solver plays, see `fake_pycolmap`; None for the real solver.
        answer: Laid over what it answers.
        more: Further words.
    """
    env = {} if part is None else {"PYTHONPATH": _FAKE, "NSX_TEST_SOLVER": part}
    if answer is not None:
        env["NSX_TEST_ANSWER"] = json.dumps(answer)
    with unchanged(folder):
        return run_nsx([*process(folder), *more], folder=folder.parent, env=env, seconds=240)
