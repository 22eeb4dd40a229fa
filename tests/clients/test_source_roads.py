"""The same photos by every kind of source give the same table."""

import os
import subprocess
import sys

import pytest
from hub_environment import REPOSITORY


@pytest.mark.slow
def test_every_road_gives_the_same_table(image_folder, tiny_dinov3, tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/roads.py", image_folder, tiny_dinov3, "--size", "64", "--out", tmp_path / "out"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    roads = [line for line in done.stdout.splitlines() if line.startswith("ROAD ")]
    assert len(roads) == 7
    assert all("12 images" in line and " 0 labels" not in line for line in roads)
    assert "ROADS are equal" in done.stdout
