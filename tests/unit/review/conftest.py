"""Chromium for the pages, and where screenshots are kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder of screenshots, to be looked at."""
    folder = Path(__file__).resolve().parents[3] / ".cache" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium; at the end, no page has written to the console or asked the network for anything."""
    chromium = Browser(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()
    assert chromium.errors == []
