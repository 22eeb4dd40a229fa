import dataclasses

import numpy as np
import pytest
from releases import CLASSES, as_version_1, make_release, make_rows, provenance

from hf_relabel.release.diff import MAX_EXAMPLES, SAME_SCORE, compare


def by_hand(old, new, names):
    """The numbers of a comparison from rows, one image at a time; labels and regions hold names here."""
    old, new = ({row["image_id"]: row for row in rows} for rows in (old, new))
    common = old.keys() & new.keys()
    found = {
        "images_added": len(new.keys() - old.keys()),
        "images_gone": len(old.keys() - new.keys()),
        "images_common": len(common),
        "images_relabeled": sum(set(old[i]["labels"]) != set(new[i]["labels"]) for i in common),
        "originals_changed": sum(old[i]["label"] != new[i]["label"] for i in common),
        "regions_old": sum(len(row["regions"]) for row in old.values()),
        "regions_new": sum(len(row["regions"]) for row in new.values()),
    }
    masks = {i for i in common if masks_of(old[i]) != masks_of(new[i])}
    found["images_other_masks"] = len(masks)
    found["images_other_region_labels"] = sum(named(old[i]) != named(new[i]) for i in common - masks)
    measured = [i for i in common if None not in (old[i]["label_score"], new[i]["label_score"])]
    found["label_scores_changed"] = sum(old[i]["label_score"] != new[i]["label_score"] for i in measured)
    for name in ("labels_added", "labels_removed", "labels_rescored"):
        found[name] = dict.fromkeys(names, 0)
    for image_id in common:
        a, b = (dict(zip(row["labels"], row["scores"], strict=True)) for row in (old[image_id], new[image_id]))
        for name in b.keys() - a.keys():
            found["labels_added"][name] += 1
        for name in a.keys() - b.keys():
            found["labels_removed"][name] += 1
        for name in a.keys() & b.keys():
            found["labels_rescored"][name] += abs(np.float32(a[name]) - np.float32(b[name])) > SAME_SCORE
    return found


def masks_of(row):
    return [region["segmentation"]["counts"] for region in row["regions"]]


def named(row):
    return [(region["label"], np.float32(region["score"])) for region in row["regions"]]


def rows_with_names(release):
    """A release's rows with the names of classes in place of their numbers."""
    for batch in release.batches("regions"):
        for row in batch.to_pylist():
            row["label"] = release.class_names[row["label"]]
            row["labels"] = [release.class_names[label] for label in row["labels"]]
            for region in row["regions"]:
                region["label"] = release.class_names[region["label"]]
            yield row


def check(old, new):
    """The comparison is the one by hand; returns it."""
    result = compare(old, new)
    expected = by_hand(rows_with_names(old), rows_with_names(new), result.class_names)
    found = {key: getattr(result, key) for key in expected}
    for key in ("labels_added", "labels_removed", "labels_rescored"):
        found[key] = dict(zip(result.class_names, found[key].tolist(), strict=True))
    assert found == expected
    return result


def changed(rows, rng):
    """Rows with images removed and added, labels rescored and removed, masks removed and regions relabeled."""
    for row in rows:
        chance = rng.random()
        if chance < 0.1:
            continue
        row = {**row, "regions": [dict(region) for region in row["regions"]]}
        if chance < 0.2:
            row["image_id"] = f"zz/{row['image_id']}"
        elif chance < 0.3:
            row["label"] = (row["label"] + 1) % len(CLASSES)
        elif chance < 0.4:
            row["scores"] = [score / 2 for score in row["scores"]]
        elif chance < 0.5:
            row["labels"], row["scores"] = row["labels"][1:], row["scores"][1:]
        elif chance < 0.6:
            row["regions"] = row["regions"][1:]
        elif chance < 0.7:
            for region in row["regions"]:
                region["label"] = (region["label"] + 1) % len(CLASSES)
        elif chance < 0.9:
            row["label_score"] = None if chance < 0.8 else chance
        yield row


@pytest.mark.parametrize("seed", range(3))
def test_every_number_is_that_of_comparing_by_hand(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = list(make_rows(200))
    # files of other sizes, so that the windows of the two sides end at different images
    old = make_release(tmp_path / "old", rows=rows, rows_per_file=23)
    new = make_release(tmp_path / "new", "1.1.0", rows=list(changed(rows, rng)), rows_per_file=31)
    result = check(old, new)
    for name in ("images_added", "images_gone", "originals_changed", "label_scores_changed", "images_other_masks"):
        assert getattr(result, name) > 0
    assert result.labels_rescored.sum() > 0
    assert result.images_other_region_labels > 0


def test_another_threshold(tmp_path):
    old = make_release(tmp_path / "old", threshold=0.5)
    new = make_release(tmp_path / "new", "1.1.0", threshold=0.8)
    result = check(old, new)
    assert result.labels_removed.sum() > 0
    assert result.labels_added.sum() == result.labels_rescored.sum() == result.images_other_masks == 0
    assert result.settings == ["build.threshold: 0.5 -> 0.8"], "the version itself is no setting"
    assert (result.old, result.new) == ("Tiny 1.0.0", "Tiny 1.1.0")


def test_what_follows_from_the_data_is_no_setting(tmp_path):
    made_by = provenance(0.5, "1.1.0")
    made_by["scores"]["propensity"] = 0.7
    old, new = make_release(tmp_path / "old"), make_release(tmp_path / "new", "1.1.0", provenance=made_by)
    assert check(old, new).settings == []


def test_a_release_of_schema_version_1(tmp_path):
    make_release(tmp_path / "old")
    result = compare(as_version_1(tmp_path / "old"), make_release(tmp_path / "new", "1.1.0"))
    assert result.images_common == 60
    assert result.classes_by_change() == []
    assert result.label_scores_changed == result.images_other_masks == result.images_other_region_labels == 0


def test_the_same_release(tmp_path):
    release = make_release(tmp_path / "release")
    result = compare(release, release)
    assert result.images_common == 60
    assert result.classes_by_change() == result.settings == []
    assert result.images_relabeled == result.images_added == result.images_gone == 0


def test_classes_are_matched_by_their_names(tmp_path):
    rows = list(make_rows(60))
    old = make_release(tmp_path / "old", rows=rows)
    order = [2, 0, 3, 1]  # place in the new list of each old class
    names = [CLASSES[order.index(place)] for place in range(4)]
    renamed = [
        {
            **row,
            "label": order[row["label"]],
            "labels": [order[label] for label in row["labels"]],
            "regions": [{**region, "label": order[region["label"]]} for region in row["regions"]],
        }
        for row in rows
    ]
    result = check(old, make_release(tmp_path / "new", rows=renamed, class_names=[*names, "fish"]))
    assert result.classes_by_change() == []
    assert result.originals_changed == 0
    assert result.class_names == [*names, "fish"]
    more = make_release(tmp_path / "more", rows=rows, class_names=[*CLASSES[:3], "bird"])
    result = check(old, more)
    assert result.class_names == [*CLASSES[:3], "bird", "tree"]
    assert result.labels_removed[4] == result.labels_added[3] == old.statistics["labels_per_class"][3]


def test_images_that_are_named_as_examples(tmp_path):
    rows = sorted(make_rows(60), key=lambda row: row["image_id"])
    old = make_release(tmp_path / "old", rows=rows[:30])
    new = make_release(tmp_path / "new", rows=rows[30:])
    result = check(old, new)
    assert result.images_common == 0
    assert result.examples_gone == [row["image_id"] for row in rows[:MAX_EXAMPLES]]
    assert result.examples_added == [row["image_id"] for row in rows[30 : 30 + MAX_EXAMPLES]]


def test_settings_are_those_that_were_chosen(tmp_path):
    release = make_release(tmp_path / "release")
    other_provenance = {
        **provenance(0.5, "1.0.1"),
        "fingerprint": "x",
        "counters": {"a": 1},
        "source_fingerprint": "y",
        "machines": {"x": 1},
        "labeler": {"training": {"digest": "z"}},
    }
    other_provenance["backbone"] = {**other_provenance["backbone"], "revision": "1" * 40}
    other_provenance["config"]["build"] |= {"include_global": True}
    other = dataclasses.replace(release, provenance=other_provenance)
    assert compare(release, other).settings == [
        f'backbone.revision: "{"0" * 40}" -> "{"1" * 40}"',
        "build.include_global: null -> true",
    ]
