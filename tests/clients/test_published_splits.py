"""Several splits on the Hub: each loads by its name, and none disappears without a word."""

import json
import subprocess
import sys

import pyarrow as pa
import pytest
from hub_environment import TIMEOUT, environment
from releases import CLASSES, make_release, make_rows, provenance

from hf_relabel.release.reader import Release
from hf_relabel.release.writer import write_release
from hf_relabel.schema import release_schema

LOAD = """
import json, sys
from datasets import load_dataset
name, revision = sys.argv[1:]
labels = {split: load_dataset(name, revision=revision, split=split)["image_id"][:] for split in ("train", "validation")}
regions = load_dataset(name, "regions", revision=revision, split="validation")
from huggingface_hub import hf_hub_download
sys.path.insert(0, hf_hub_download(name, "scripts/load_relabel.py", repo_type="dataset", revision=revision)[:-16])
from load_relabel import load_relabel
own = load_relabel(name, revision, split="validation")
try:
    load_relabel(name, revision)
    refused = ""
except ValueError as error:
    refused = str(error)
print(json.dumps([labels, regions["image_id"][:], own["image_id"][:], refused]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Release:
    """Version 1.0.0 with two splits."""
    rows = sorted(make_rows(40), key=lambda row: row["image_id"])
    parts = {"train": rows[:30], "validation": rows[30:]}
    schema = release_schema("regions", CLASSES)
    tables = {split: [pa.Table.from_pylist(part, schema=schema)] for split, part in parts.items()}
    folder = tmp_path_factory.mktemp("splits") / "release"
    return write_release(
        folder, tables, class_names=CLASSES, version="1.0.0", name="Tiny", provenance=provenance(0.5, "1.0.0")
    )


def test_each_split_loads_by_its_name(hub, hf_relabel, repo_id, both, tmp_path):
    hf_relabel("publish", both.folder, repo_id, "--version", "1.0.0", "--license", "cc-by-4.0").ok()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, repo_id, "v1.0.0"],
        env=environment(hub, tmp_path), capture_output=True, text=True, timeout=TIMEOUT, check=True,
    )  # fmt: skip
    labels, regions, own, refused = json.loads(done.stdout.splitlines()[-1])
    expected = {split: [row["image_id"] for row in both.only(split).rows("labels")] for split in both.splits}
    assert labels == expected
    assert regions == own == expected["validation"]
    assert "train, validation" in refused
    card = hub.repo(repo_id).read("v1.0.0", "README.md").decode()
    assert "splits `train`, `validation`" in card
    assert "| `validation` | 10 |" in card


def test_a_split_is_not_dropped_without_a_word(hub, hf_relabel, repo_id, both, tmp_path):
    hf_relabel("publish", both.folder, repo_id, "--version", "1.0.0").ok()
    fewer = make_release(tmp_path / "release", "1.1.0", images=30)
    for more in ([], ["--dry-run"]):
        line = hf_relabel("publish", fewer.folder, repo_id, "--version", "1.1.0", *more).error()
        assert "so validation would be removed" in line
        assert f"--build.base {repo_id}@v1.0.0" in line
    hf_relabel("publish", fewer.folder, repo_id, "--version", "1.1.0", "--drop-split", "validation").ok()
    assert not [path for path in hub.repo(repo_id).files("v1.1.0") if "validation" in path]
    assert "splits removed: `validation`" in hub.repo(repo_id).read("v1.1.0", "CHANGELOG.md").decode()
