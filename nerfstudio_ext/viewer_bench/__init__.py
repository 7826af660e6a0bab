"""Measuring the viewer from outside: a stand-in browser that speaks viser's protocol, slow wires, and the targets."""

from __future__ import annotations

from .browser import FakeBrowser, Received
from .wire import slow_wire

__all__ = ["FakeBrowser", "Received", "slow_wire"]
