"""Walk through a finished run in the browser: a launcher of `nsx view` that works from a checkout.

Usage:
    python apps/viewer.py --help
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nerfstudio_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["view", *sys.argv[1:]]))
