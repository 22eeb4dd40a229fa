"""Rows of a release at equal distances, for pictures."""

from collections.abc import Sequence
from typing import Any

from hf_relabel.release.reader import Release


def spread_rows(
    release: Release, splits: Sequence[str], count: int, columns: list[str] | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Return rows of some splits at equal distances, each with its split; a file without any of them is not read.

    Args:
        release: The release.
        splits: The splits to take the rows from, as one list.
        count: Maximum number of rows.
        columns: Columns of the configuration `regions` to read; None for all.
    """
    parts = [release.only(split) for split in splits]
    total = sum(part.num_images for part in parts)
    wanted = range(0, total, max(1, total // count))[:count]
    rows: list[tuple[str, dict[str, Any]]] = []
    first = 0  # row of these splits at which the file or the batch begins
    for split, file in [(part.split, file) for part in parts for file in part.files_of("regions")]:
        if not any(first <= row < first + file.rows for row in wanted):
            first += file.rows
            continue
        for batch in release.batches_of(file, columns):
            here = [row - first for row in wanted if first <= row < first + batch.num_rows]
            rows += [(split, row) for row in batch.take(here).to_pylist()] if here else []
            first += batch.num_rows
    return rows
