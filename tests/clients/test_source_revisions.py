"""Pinned revisions of a dataset on the Hub, online and offline: exactly that version, or a refusal."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_datasets import put_files
from hub_environment import TIMEOUT, environment

SCRIPT = """
import json, sys
from hf_relabel.config import SourceConfig
from hf_relabel.errors import RelabelError
from hf_relabel.evaluation.ground_truth import read_truth
from hf_relabel.run.snapshot import Snapshot
from hf_relabel.sources.source import open_source

answers = {}
for revision in sys.argv[2:]:
    for what in ("source", "truth"):
        try:
            if what == "source":
                settings = {"kind": "dataset", "path": sys.argv[1], "id_column": "image_id", "label_column": "label"}
                config = SourceConfig(revision=None if revision == "-" else revision, **settings)
                source = open_source(config)
                found = len(source)
                answers[f"commit {revision}"] = Snapshot.of(source, config).settings["commit"]
            else:
                found = len(read_truth(sys.argv[1] + ("" if revision == "-" else "@" + revision)).labels)
        except RelabelError as error:
            found = str(error)
        answers[f"{what} {revision}"] = found
print(json.dumps(answers))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def answers(hub, home):
    """Sizes or errors of a dataset's revisions, as a source and as a truth."""

    def ask(repo_id: str, *revisions: str, **env: str) -> dict[str, int | str]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, repo_id, *revisions],
            env=environment(hub, home, **env),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    return ask


@pytest.fixture
def two_versions(hub, repo_id) -> tuple[str, list[str]]:
    """A dataset with 2 rows at v1 and 3 rows at v2; returns its id and the commits."""
    from image_tables import table

    commits = []
    for count, tag in ((2, "v1"), (3, "v2")):
        data = table(["cat"] * count, image_id=[f"{row}.png" for row in range(count)])
        file = io.BytesIO()
        data.add_column("labels", [["cat"]] * count).to_parquet(file)
        content = {"data/train.parquet": file.getvalue(), "README.md": b"# Photos\n"}
        commits.append(put_files(hub, repo_id, content, tag))
    return repo_id, commits


def test_pinned_revisions_are_exact(two_versions, answers):
    repo_id, (one, two) = two_versions
    online = answers(repo_id, "v1", "v2", "v3", "-")
    assert {key: online[key] for key in ("source v1", "truth v1", "source v2", "truth v2", "source -")} == {
        "source v1": 2, "truth v1": 2, "source v2": 3, "truth v2": 3, "source -": 3,
    }  # fmt: skip
    # What a release records about its source.
    assert [online[f"commit {revision}"] for revision in ("v1", "v2", "-")] == [one, two, two]
    for what in ("source", "truth"):
        assert "no revision 'v3' on the Hub" in online[f"{what} v3"]
    offline = answers(repo_id, "v1", "v2", "v3", one, "-", HF_HUB_OFFLINE="1")
    for what in ("source", "truth"):
        assert offline[f"{what} v2"] == 3
        assert offline[f"{what} -"] == 3
        for revision in ("v1", one):
            assert f"asked for the revision {revision} (commit {one[:12]}), but" in offline[f"{what} {revision}"]
            assert "hf download" in offline[f"{what} {revision}"]
        assert "the revision 'v3' is not known without the Hub" in offline[f"{what} v3"]


def test_a_local_dataset_has_no_revision(tmp_path):
    from image_tables import table

    from hf_relabel.config import SourceConfig
    from hf_relabel.errors import SourceError
    from hf_relabel.sources.source import open_source

    table(["cat"]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(SourceError, match="is a local dataset, which has no revision 'v1'"):
        open_source(SourceConfig(kind="dataset", path=str(tmp_path), revision="v1"))
