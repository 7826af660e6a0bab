"""In the place of pycolmap, by way of PYTHONPATH: plays a part of `tests.poses.fake_solver` and ends the process.

The part stands in `NSX_TEST_SOLVER`: crash, hang, error, silent, garbage, nothing-..., place:N, missing or old.
`NSX_TEST_ANSWER` holds JSON that is laid over the answer, such as `{"model": {"error_px": 9}}`.
"""

import json
import os
import sys
from pathlib import Path

PART = os.environ["NSX_TEST_SOLVER"]


def lay_over(answer: dict, changes: dict) -> dict:
    """The answer with the changes, level by level."""
    merged = {k: lay_over(answer.get(k, {}), v) if isinstance(v, dict) else v for k, v in changes.items()}
    return {**answer, **merged}


if PART == "missing":
    raise ModuleNotFoundError("No module named 'pycolmap'", name="pycolmap")
if PART == "old":
    __version__ = "0.6.1"
else:
    from tests.poses.fake_solver import main

    main(PART.split(","), sys.argv[-1])
    result = Path(json.loads(Path(sys.argv[-1]).read_text())["output"], "result.json")
    if result.exists() and "NSX_TEST_ANSWER" in os.environ:
        changed = lay_over(json.loads(result.read_text()), json.loads(os.environ["NSX_TEST_ANSWER"]))
        result.write_text(json.dumps(changed))
    sys.stdout.flush()
    os._exit(0)
