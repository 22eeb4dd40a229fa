"""The environment of processes whose Hub is the test server."""

import os
from pathlib import Path

from hub_server import Hub

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 120
"""Seconds after which a process that a test waits for is taken to hang."""


def environment(hub: Hub, home: Path, token: str | None = "hf_owner_secret", **more: str) -> dict[str, str]:
    """The environment of a process whose Hub is the test server, which no proxy may come between."""
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
