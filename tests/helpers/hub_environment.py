"""Environment variables for processes that use the test server as their Hub."""

import os
from pathlib import Path

from hub_server import Hub

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 120
"""Seconds after which a process is considered hung."""


def environment(hub: Hub, home: Path, token: str | None = "hf_owner_secret", **more: str) -> dict[str, str]:
    """Return the environment of a process that uses the test server as its Hub, without a proxy."""
    ours = ("HF_", "HUGGING")
    kept = {k: v for k, v in os.environ.items() if not (k.startswith(ours) or k.lower().endswith("_proxy"))}
    kept |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(REPOSITORY),
        **more,
    }
    return kept | ({"HF_TOKEN": token} if token else {})
