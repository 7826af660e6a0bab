"""In the place of pycolmap, by way of PYTHONPATH: plays a part of `tests.poses.fake_solver` and ends the process.

The part stands in `NSX_TEST_SOLVER`: crash, hang, error, silent, garbage, nothing-..., place:N, missing or old.
"""

import os
import sys

PART = os.environ["NSX_TEST_SOLVER"]
if PART == "missing":
    raise ModuleNotFoundError("No module named 'pycolmap'", name="pycolmap")
if PART != "old":  # an old release imports, and then lacks what is asked of it
    from tests.poses.fake_solver import main

    main(PART.split(","), sys.argv[-1])
    sys.stdout.flush()
    os._exit(0)
