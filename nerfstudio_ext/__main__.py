"""`python -m nerfstudio_ext` is `nsx`."""

import sys

from .cli import main

sys.exit(main())
