"""A finished run that the tests of this folder share."""

from pathlib import Path

import pytest
from commands import config_of, hf_relabel


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, tiny_dinov3: Path) -> tuple[Path, str]:
    """One run by one process, which others are compared with, and its output; its configuration is beside it.

    Not to be changed.
    """
    folder = tmp_path_factory.mktemp("run")
    config = config_of(folder, image_folder, tiny_dinov3)
    done = hf_relabel("run", "--config", config, "--run.dir", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout
