"""Captures: reading every supported format into a `Scene`, and drawing training pixels from it."""

from __future__ import annotations

from .loading import CaptureKind, detect_kind, load_scene
from .model import Scene, SceneFrame, SceneMeta, Split

__all__ = ["CaptureKind", "Scene", "SceneFrame", "SceneMeta", "Split", "detect_kind", "load_scene"]
