"""Servers of tests make their links from a known secret, so that fake browsers can hold a cookie."""

from __future__ import annotations

import pytest

from tests.viewer.fakes import TEST_SECRET


@pytest.fixture(autouse=True)
def _known_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nerfstudio_ext.viewer.server.fresh_secret", lambda: TEST_SECRET)
