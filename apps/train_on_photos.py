"""Photos in, a scene out, watched in the browser while it trains: a launcher of `nsx train` that works from a checkout.

Usage:
    python apps/train_on_photos.py --help
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nerfstudio_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
