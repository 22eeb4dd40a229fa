"""Parents of classes in `build` and `audit`."""

import json
import shutil
from pathlib import Path

import pytest
from commands import hf_relabel

from hf_relabel.release.reader import Release
from hf_relabel.release.versions import stored_releases

pytestmark = pytest.mark.slow


def test_an_image_does_not_list_a_class_and_its_ancestor(finished_run: tuple[Path, str], tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    parents = tmp_path / "parents.tsv"
    parents.write_text("square\tpolygon\ntriangle\tsquare\npolygon\tshape\ncircle\tshape\n")
    config = ["--config", str(run / "config.yaml"), "--run.dir", str(run), "--build.threshold", "0"]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({row["image_id"]: [row["label"]] for row in rows_of(stored_releases(run)["1.0.0"])}))

    def audit(version: str) -> str:
        folder = str(stored_releases(run)[version].folder)
        done = hf_relabel("audit", folder, "--truth", str(truth), "--parents", str(parents))
        assert done.returncode == 0, done.stderr
        return done.stdout

    for version, more in (("1.1.0", []), ("1.2.0", ["--build.parents", str(parents)])):
        done = hf_relabel("build", *config, "--build.version", version, *more)
        assert done.returncode == 0, done.stderr
    assert "12 images list a class and one of its ancestors" in audit("1.1.0")
    found = audit("1.2.0")
    assert "0 images list a class and one of its ancestors" in found
    assert "depth 3" in found
    for row in rows_of(stored_releases(run)["1.2.0"]):
        assert row["label"] in row["labels"]
        assert not {1, 2} <= set(row["labels"])
        assert row["label"] != 0 or 2 in row["labels"], "the more specific one stays"
    done = hf_relabel("build", *config, "--build.version", "1.3.0", "--build.parents", "none.tsv")
    assert "hf-relabel: error: none.tsv: cannot be read" in done.stderr


def rows_of(release: Release) -> list[dict]:
    return list(release.rows("labels"))
