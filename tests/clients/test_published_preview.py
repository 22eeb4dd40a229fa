"""The configuration `preview` as users load it, and that a version without one removes it."""

import subprocess
import sys

import pytest
from hub_environment import TIMEOUT, environment
from release_folder import write_release
from tiny_data import NAMES, write_images

pytestmark = pytest.mark.slow

LOAD = """
import sys, datasets
loaded = datasets.load_dataset(sys.argv[1], "preview", revision="v1.0.0", split="train")
print(len(loaded), loaded[0]["image"].size, loaded.features["labels"].feature.names)
print(datasets.get_dataset_config_names(sys.argv[1], revision="v1.0.0"))
print(datasets.load_dataset(sys.argv[1], revision="v1.0.0", split="train").column_names[0])
"""


def test_the_preview_is_loaded_by_its_name_and_is_not_the_default(hub, hf_relabel, repo_id, tmp_path):
    release = write_release(tmp_path / "release", NAMES, write_images(tmp_path, 5, 0))
    publish = ("publish", release, repo_id, "--version", "1.0.0", "--license", "cc0-1.0")
    images = ("--show-images", tmp_path / "images", "--images-license", "cc-by-4.0")
    assert "preview: 5 images with their regions drawn in" in hf_relabel(*publish, *images).ok()
    assert "nothing was sent" in hf_relabel(*publish, *images).ok()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, repo_id],
        env=environment(hub, tmp_path / "home"), capture_output=True, text=True, timeout=TIMEOUT, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"5 (512, 512) {NAMES}", "['labels', 'regions', 'preview']", "image_id"]
