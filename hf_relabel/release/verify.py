"""Compare all files of a release with its manifest and with each other, before it is published or built upon."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import EXCLUDED, MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.rows import CORRECTED_COLUMNS, columns_in
from hf_relabel.release.statistics import ReleaseStatistics
from hf_relabel.run.store import differences, sha256_of


def verify(release: Release) -> None:
    """Read every file: sizes, hashes, all rows, and the statistics, which are counted again.

    Raises:
        ReleaseError: A file is missing, was changed, or does not belong to the others; the message names it.
    """
    for file in release.files:
        path = release.path_of(file)
        try:
            is_same = regular_file(path).stat().st_size == file.bytes and sha256_of(path) == file.sha256
        except OSError as error:
            raise ReleaseError(f"{path}: cannot be read ({error.strerror}); build the release again") from error
        if not is_same:
            raise ReleaseError(f"{path}: changed since the release was built; build the release again")
    classes = len(release.class_names)
    total = ReleaseStatistics(classes)
    for split in release.splits:
        counted = ReleaseStatistics(classes)
        for table in _equal_rows(release.only(split)):
            total.add(table)
            counted.add(table)
        if release.of_splits:
            _compare(release, f"splits.{split}", release.of_splits[split], counted)
    for reason in _reasons(release.folder / EXCLUDED) if any(file.path == EXCLUDED for file in release.files) else ():
        total.exclude(reason)
    _compare(release, "statistics", release.statistics, total)


def refuse_links(release: Release) -> None:
    """Refuse links in a release folder, which lead to files that its author may not have meant to publish.

    The Hub's cache consists of links, so they are refused only where files are uploaded.

    Raises:
        ReleaseError: A file, or a folder within the release, is a link.
    """
    for file in [*(file.path for file in release.files), MANIFEST]:
        path = release.folder / file
        for part in [path, *path.relative_to(release.folder).parents][:-1]:
            if (release.folder / part).is_symlink():
                raise ReleaseError(f"{release.folder / part}: is a link; put the file itself into the release folder")


def _compare(release: Release, where: str, stored: dict[str, Any], counted: ReleaseStatistics) -> None:
    found = differences(stored, json.loads(json.dumps(counted.result())))
    if found:
        raise ReleaseError(
            f"{release.folder / MANIFEST}: {where} does not match the rows ({found[0]}); build the release again"
        )


def _equal_rows(release: Release) -> Iterator[pa.Table]:
    """The rows of `regions` of one split, where those of `labels` are the same."""
    columns = list(columns_in("labels", CORRECTED_COLUMNS if release.is_corrected else ()))
    labels = _Rows(release, "labels", columns)
    for batch in release.batches("regions"):
        table = pa.Table.from_batches([batch])
        if not labels.take(len(table)).equals(table.select(columns)):
            raise ReleaseError(f"{release.folder}: data/labels and data/regions have different rows; build it again")
        yield table


class _Rows:
    """The rows of a configuration in pieces of any size."""

    def __init__(self, release: Release, config_name: str, columns: list[str]):
        self._batches = release.batches(config_name, columns)
        self._rest: pa.Table | None = None

    def take(self, rows: int) -> pa.Table:
        """The next rows; fewer at the end."""
        pieces = [self._rest] if self._rest is not None else []
        while sum(map(len, pieces)) < rows and (batch := next(self._batches, None)) is not None:
            pieces.append(pa.Table.from_batches([batch]))
        table = pa.concat_tables(pieces) if pieces else pa.table({})
        self._rest = table.slice(rows)
        return table.slice(0, rows)


def _reasons(path: Path) -> Iterator[str]:
    """The reasons in the list of excluded images, one line each."""
    with open(regular_file(path), encoding="utf-8") as file:
        try:
            for line in file:
                item = json.loads(line)
                if not isinstance(item["image_id"], str) or not isinstance(item["reason"], str):
                    raise TypeError("an image_id and a reason must be text")
                yield item["reason"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReleaseError(
                f"{path}: is not a list of excluded images ({error}); build the release again"
            ) from error
