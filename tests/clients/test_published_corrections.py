"""Corrections by hand in published releases: what the card says, what users load, and what changes between versions."""

import json
import re

import pytest
from corrected_runs import at_version, build_as, line, make_run, names, rows_of

from hf_relabel.review.answers import Answer, Review
from hf_relabel.review.checked import check
from hf_relabel.review.sample import draw_sample, identity_of


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Versions 1.0.0 (none), 1.1.0 (one correction, another threshold), 1.2.0 (a second one); the corrected image."""
    folder = tmp_path_factory.mktemp("corrected")
    job = make_run(folder)
    first = at_version(job, "1.0.0")
    row = next(row for row in rows_of(first).values() if len(row["labels"]) == 1)
    one, other = [name for name in first.class_names if name not in names(row, first)][:2]
    sample = draw_sample(first, 50)
    answers = [
        Answer(item.image_id, first.class_names[item.label], item.score, item.stratum, number > 9, "Ada", "t")
        for number, item in enumerate(sample.items)
    ]
    check(first, Review(identity_of(first), sample.strata, 1, answers, [], None)).save(folder / "checked.json")
    path, checked = folder / "corrections.jsonl", {"checked": str(folder / "checked.json")}
    build_as(job, "1.1.0", [line(row["image_id"], one, False, True)], path, threshold=0.7, **checked)
    build_as(job, "1.2.0", [line(row["image_id"], other, False, True)], path, threshold=0.7, **checked)
    return [at_version(job, version) for version in ("1.0.0", "1.1.0", "1.2.0")], row["image_id"], {one, other}


def test_corrections_are_published_and_loaded(hub, hf_relabel, repo_id, versions, tmp_path):
    releases, image_id, expected = versions
    for release in releases:
        hf_relabel("publish", release.folder, repo_id, "--version", release.version).ok()
    card = hub.repo(repo_id).read("main", "README.md").decode()
    assert re.search(r"Checked by hand: 50 labels, precision \d\d\.\d% \[\d\d\.\d%, \d\d\.\d%\]", card)
    assert "Corrected by hand: 2 labels were checked (images: 1), which added 2 labels and removed 0" in card
    assert "No human checked the labels" not in card
    assert "| `checked_labels` | both |" in card
    changelog = hub.repo(repo_id).read("main", "CHANGELOG.md").decode()
    assert "- labels checked by hand: 1 before, 2 now" in changelog
    bare = hub.repo(repo_id).read("v1.0.0", "README.md").decode()
    assert "by hand" not in bare
    assert "checked_labels" not in bare
    done = hf_relabel("diff", f"{repo_id}@v1.1.0", f"{repo_id}@v1.2.0").ok()
    assert ["labels", "added", "1"] in [row.split() for row in done.splitlines()]
    found = json.loads(hf_relabel("diff", f"{repo_id}@v1.0.0", f"{repo_id}@v1.2.0", "--json", "-").ok())
    assert (found["checked_old"], found["checked_new"]) == (0, 2)

    import datasets

    loaded = datasets.load_dataset(str(releases[2].folder), cache_dir=str(tmp_path))["train"]
    row = next(row for row in loaded if row["image_id"] == image_id)
    classes = loaded.features["checked_labels"].feature.names
    assert row["source"] == "human"
    assert {classes[label] for label in row["checked_labels"]} == expected
    assert set(row["checked_labels"]) < set(row["labels"])
    assert set(loaded["source"]) == {"human", "machine"}
