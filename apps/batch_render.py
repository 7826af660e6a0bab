"""Render a finished run along a camera path: a launcher of `nsx render` that works from a checkout.

Usage:
    python apps/batch_render.py --help
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nerfstudio_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["render", *sys.argv[1:]]))
