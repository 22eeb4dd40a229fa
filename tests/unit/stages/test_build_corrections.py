"""Corrections by hand in releases: they hold in every later version, and change nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
from corrected_runs import at_version, build_as, line, make_run, names, rows_of

from hf_relabel.errors import FormatError, ReleaseError, UsageError
from hf_relabel.hub.changelog import entry
from hf_relabel.release.diff import compare
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import verify
from hf_relabel.review.answers import Answer, Review
from hf_relabel.review.checked import check
from hf_relabel.review.corrections import Correction, add_corrections
from hf_relabel.review.sample import added_labels, draw_sample, identity_of
from hf_relabel.run.job import Job
from hf_relabel.stages import build


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Job:
    """A run with a release 1.0.0 without corrections."""
    return make_run(tmp_path_factory.mktemp("corrections"))


@pytest.fixture
def first(made) -> Release:
    return at_version(made, "1.0.0")


def test_corrections_hold_at_any_threshold_and_nothing_else_changes(made, first, tmp_path):
    assert not first.is_corrected
    before = rows_of(first)
    kinds = list(first.class_names)
    wrong, right = [row for row in before.values() if len(row["labels"]) == 2][:2]
    alone = next(row for row in before.values() if len(row["labels"]) == 1)
    false_name, true_name = (kinds[next(k for k in row["labels"] if k != row["label"])] for row in (wrong, right))
    missing = next(name for name in kinds if name not in names(alone, first))
    lines = [
        line(wrong["image_id"], false_name, True, False),
        line(right["image_id"], true_name, True, True),
        line(alone["image_id"], missing, False, True),
    ]
    second = build_as(made, "1.1.0", lines, tmp_path / "corrections.jsonl")
    after = rows_of(second)
    assert names(after[wrong["image_id"]], second) == names(wrong, first) - {false_name}
    assert names(after[alone["image_id"]], second) == names(alone, first) | {missing}
    assert after[alone["image_id"]]["scores"] == [1.0, 1.0]
    assert {row["image_id"] for row in after.values() if row["source"] == "human"} == {item["image"] for item in lines}
    assert kinds.index(false_name) in after[wrong["image_id"]]["checked_labels"]
    assert kinds.index(false_name) not in [region["label"] for region in after[wrong["image_id"]]["regions"]]
    changed = {row["image_id"] for row in (wrong, right, alone)}
    for image_id in before.keys() - changed:
        own = {
            key: value for key, value in after[image_id].items() if key not in ("source", "checked_labels", "version")
        }
        assert own == {key: value for key, value in before[image_id].items() if key != "version"}

    strict = build_as(made, "1.2.0", [], tmp_path / "corrections.jsonl", threshold=0.97)
    assert len(added_labels(strict)) < len(added_labels(at_version(made, "1.1.0")))
    found = rows_of(strict)
    assert true_name in names(found[right["image_id"]], strict)
    assert missing in names(found[alone["image_id"]], strict)
    assert false_name not in names(found[wrong["image_id"]], strict)
    loose = build_as(made, "1.3.0", [], tmp_path / "corrections.jsonl", threshold=0.01)
    assert false_name not in names(rows_of(loose)[wrong["image_id"]], loose)

    # A second correction takes one back.
    again = [line(alone["image_id"], missing, True, False, "2026-02-01")]
    third = build_as(made, "1.4.0", again, tmp_path / "corrections.jsonl")
    assert names(rows_of(third)[alone["image_id"]], third) == names(alone, first)

    first, second = (at_version(made, version) for version in ("1.0.0", "1.1.0"))
    verify(second)
    difference = compare(first, second)
    assert (difference.images_relabeled, difference.labels_added.sum(), difference.labels_removed.sum()) == (2, 1, 1)
    assert (difference.checked_old, difference.checked_new) == (0, 3)
    assert "labels checked by hand: 0 before, 3 now" in entry(difference, "1.0.0")
    record = second.provenance["corrections"]
    assert record | {"sha256": ""} == {
        "sha256": "", "images": 3, "labels": 3, "labels_added": 1, "labels_removed": 1, "regions": 0,
        "images_not_here": 0,
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(second.provenance)
    checked = {(image_id, label) for image_id, row in after.items() for label in row["checked_labels"]}
    open_ones = added_labels(second)
    assert not checked & set(zip(open_ones.image_ids, open_ones.labels.tolist(), strict=True))  # not asked again


def test_a_corrected_region_keeps_its_class_at_any_threshold(made, first, tmp_path):
    row = next(row for row in rows_of(first).values() if len(row["regions"]) >= 2)
    region = row["regions"][1]
    old = first.class_names[region["label"]]
    new, newer = [name for name in first.class_names if name not in names(row, first) | {old}][:2]
    path = tmp_path / "corrections.jsonl"
    about = {"region": region["region_id"]}
    second = build_as(
        made, "2.1.0", [line(row["image_id"], "", old, new, **about)], path, threshold=0.99, region_score=1.0
    )
    after = rows_of(second)[row["image_id"]]
    assert new in names(after, second)
    (found,) = [item for item in after["regions"] if second.class_names[item["label"]] == new]
    assert found["segmentation"] == region["segmentation"]
    assert found["score"] == 1.0

    about = {"region": found["region_id"]}  # the same region again, as the later version calls it
    third = build_as(made, "2.2.0", [line(row["image_id"], "", new, newer, "2026-02-01", **about)], path)
    after = rows_of(third)[row["image_id"]]
    assert newer in names(after, third)
    assert new not in names(after, third)
    assert [item["label"] for item in after["regions"] if item["segmentation"] == region["segmentation"]] == [
        third.class_names.index(newer)
    ]
    nothing = build_as(made, "2.3.0", [line(row["image_id"], "", newer, None, "2026-03-01", **about)], path)
    shown = [item["segmentation"] for item in rows_of(nothing)[row["image_id"]]["regions"]]
    assert region["segmentation"] not in shown


def test_the_given_label_can_be_false(made, first, tmp_path):
    row = next(iter(rows_of(first).values()))
    given = first.class_names[row["label"]]
    release = build_as(made, "3.0.0", [line(row["image_id"], given, True, False)], tmp_path / "c.jsonl")
    after = rows_of(release)[row["image_id"]]
    assert row["label"] == after["label"]  # what the source says
    assert row["label"] not in after["labels"]


def test_corrections_in_the_folder_of_the_run_are_found_and_need_a_new_version(made, first):
    row = next(iter(rows_of(first).values()))
    missing = next(name for name in first.class_names if name not in names(row, first))
    path = made.folder / "corrections.jsonl"
    add_corrections(path, [Correction(row["image_id"], missing, None, False, True, "A", "t"),
                           Correction("gone.jpg", missing, None, False, True, "A", "t")])  # fmt: skip
    try:
        with pytest.raises(ReleaseError, match=r"already exists with other content \(corrections by hand"):
            build.run(made)
        changed = replace(made.config, build=replace(made.config.build, version="4.0.0"))
        outcome = build.run(Job(changed, made.rank))
        assert "corrections of 1 images are left out" in outcome["note"]
        assert outcome["counters"]["labels checked by hand"] == 1
    finally:
        path.unlink()


def test_a_correction_that_fits_no_class_is_refused(made, tmp_path):
    with pytest.raises(FormatError, match=r"no class 'clas 1' \(nearest: 'class 1'\)"):
        build_as(made, "5.0.0", [line("a", "clas 1", True, False)], tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"image": "a"}\n')
    with pytest.raises(FormatError, match="line 1: not a correction"):
        changed = replace(made.config.build, version="5.0.0", corrections=str(tmp_path / "b.jsonl"))
        build.run(Job(replace(made.config, build=changed), made.rank))


def test_a_review_recalibrates_the_scores_and_is_recorded(made, first, tmp_path):
    sample, before = draw_sample(first, 40), len(added_labels(first))
    answers = [
        Answer(item.image_id, first.class_names[item.label], item.score, item.stratum, number % 4 == 0, "A", "t")
        for number, item in enumerate(sample.items)
    ]
    checked = check(first, Review(identity_of(first), sample.strata, 1, answers, [], None))
    checked.save(tmp_path / "checked.json")
    release = build_as(made, "6.0.0", checked=str(tmp_path / "checked.json"), recalibrate=True)
    assert len(added_labels(release)) < before / 2
    assert np.all(added_labels(release).scores >= 0.5)
    assert release.provenance["checked"]["labels"] == 40
    assert release.provenance["checked"]["precision"]["value"] < 0.5
    other = json.loads((tmp_path / "checked.json").read_text()) | {"labeler": "0" * 64}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match="the review of another labeler"):
        build_as(made, "6.1.0", checked=str(tmp_path / "other.json"))
    with pytest.raises(UsageError, match=r"build.recalibrate: .*checked.json is missing"):
        build_as(made, "6.1.0", recalibrate=True)


def test_where_no_threshold_reaches_the_precision_only_people_add_labels(made, first, tmp_path):
    alone = next(row for row in rows_of(first).values() if len(row["labels"]) == 1)
    missing = next(name for name in first.class_names if name not in names(alone, first))
    lines = [line(alone["image_id"], missing, False, True)]
    release = build_as(made, "8.0.0", lines, tmp_path / "corrections.jsonl", precision=0.999)
    assert release.provenance["scores"]["threshold"] is None
    assert names(rows_of(release)[alone["image_id"]], release) == names(alone, first) | {missing}
    added = [row["image_id"] for row in rows_of(release).values() if len(row["labels"]) > 1]
    assert added == [alone["image_id"]]
