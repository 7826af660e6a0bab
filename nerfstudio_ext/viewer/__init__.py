"""The live viewer: a page in the browser that shows the newest picture of wherever it looks."""

from __future__ import annotations

from .server import Site, ViewerServer

__all__ = ["Site", "ViewerServer"]
