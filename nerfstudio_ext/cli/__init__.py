"""The `nsx` command: thin subcommands that parse, call the library and print.

Importing this package loads neither torch nor numba; a subcommand imports what it needs when it runs.
"""

from .entry import main

__all__ = ["main"]
