from collections import Counter
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from releases import CLASSES, make_rows

from hf_relabel.release.statistics import SCORE_BINS, TOP_PAIRS, TOP_REASONS, ReleaseStatistics
from hf_relabel.schema import release_schema


def table(rows, names=CLASSES):
    return pa.Table.from_pylist(rows, schema=release_schema("regions", names))


def counted(rows, names=CLASSES, step=7):
    """The statistics of rows that come in pieces."""
    statistics = ReleaseStatistics(len(names))
    whole = table(rows, names)
    for start in range(0, len(rows), step):
        statistics.add(whole.slice(start, step))
    return statistics.result()


def by_hand(rows, classes):
    """The same numbers, row by row."""
    pairs = Counter(pair for row in rows for pair in combinations(sorted(row["labels"]), 2))
    scores = {True: [0] * SCORE_BINS, False: [0] * SCORE_BINS}
    for row in rows:
        for label, score in zip(row["labels"], row["scores"], strict=True):
            scores[label == row["label"]][min(int(np.float32(score) * SCORE_BINS), SCORE_BINS - 1)] += 1
    labels = sum(len(row["labels"]) for row in rows)
    return {
        "images": len(rows),
        "labels": labels,
        "regions": sum(len(row["regions"]) for row in rows),
        "mean_labels_per_image": labels / len(rows),
        "multi_label_share": sum(len(row["labels"]) > 1 for row in rows) / len(rows),
        "original_in_labels_share": sum(row["label"] in row["labels"] for row in rows) / len(rows),
        "original_is_first_share": sum(row["labels"][:1] == [row["label"]] for row in rows) / len(rows),
        "labels_per_image": histogram(len(row["labels"]) for row in rows),
        "regions_per_image": histogram(len(row["regions"]) for row in rows),
        "originals_per_class": [sum(row["label"] == c for row in rows) for c in range(classes)],
        "labels_per_class": [sum(c in row["labels"] for row in rows) for c in range(classes)],
        "added_per_class": [sum(c in row["labels"] and c != row["label"] for row in rows) for c in range(classes)],
        "label_pairs": [[*pair, n] for pair, n in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))][:TOP_PAIRS],
        "scores_original": scores[True],
        "scores_added": scores[False],
        "excluded_images": 0,
        "excluded": {},
    }


def histogram(values):
    return {str(value): count for value, count in sorted(Counter(values).items())}


def without_the_original(row):
    kept = [(label, score) for label, score in zip(row["labels"], row["scores"], strict=True) if label != row["label"]]
    return {**row, "labels": [label for label, _ in kept], "scores": [score for _, score in kept]}


@pytest.mark.parametrize("classes", [1, 4, 40])
def test_every_number_is_that_of_counting_by_hand(classes):
    names = [str(number) for number in range(classes)]
    rows = list(make_rows(300, threshold=0.3, classes=classes))
    rows[::3] = map(without_the_original, rows[::3])  # some have no label at all then
    assert counted(rows, names) == by_hand(rows, classes)


def test_rows_without_labels():
    rows = [{**row, "labels": [], "scores": [], "regions": []} for row in make_rows(20)]
    assert counted(rows) == by_hand(rows, len(CLASSES))


def test_no_rows():
    result = ReleaseStatistics(3).result()
    assert result["images"] == result["mean_labels_per_image"] == result["multi_label_share"] == 0
    assert result["label_pairs"] == []


def test_reasons_are_counted_and_the_rarer_ones_added_up():
    statistics = ReleaseStatistics(1)
    for number in range(TOP_REASONS + 5):
        for _ in range(TOP_REASONS + 5 - number):
            statistics.exclude(f"reason {number}")
    result = statistics.result()
    assert list(result["excluded"])[:2] == ["reason 0", "reason 1"]
    assert result["excluded"]["other reasons"] == 5 + 4 + 3 + 2 + 1
    assert sum(result["excluded"].values()) == result["excluded_images"] == sum(range(TOP_REASONS + 6))
