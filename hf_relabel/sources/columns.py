"""The ids, labels and places of a source's images as columns: in memory, or on disk and read part by part.

A column of ids is a sequence of text; a part of it, `column[start:stop]`, is a list. A column of numbers is an array,
or something that gives an array for a part of it.
"""

import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Union

import numpy as np
import pyarrow as pa

from hf_relabel.sources.stored_table import GROUP_ROWS, StoredTable

Numbers = Union[np.ndarray, "StoredNumbers", "Chain"]
"""A column of numbers."""


class _Stored(Sequence):
    """A column of a stored table, or consecutive rows of it."""

    def __init__(self, table: StoredTable, name: str, start: int = 0, stop: int | None = None):
        self.table = table
        self.name = name
        self.start = start
        self.stop = len(table) if stop is None else stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Any]:
        for part in chunks(self):
            yield from part

    def _value(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"no row {index} of {len(self)}")
        return self.table.value(self.name, self.start + index % len(self))

    def _values(self, part: slice) -> pa.ChunkedArray:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("parts of a stored column are consecutive rows")
        return self.table.values(self.name, self.start + start, self.start + max(start, stop))


class StoredIds(_Stored):
    """The image ids of a stored table.

    Args:
        table: The table.
        start: First row.
        stop: The row after the last; None for all rows.
        removed: What the stored ids start with and these do not.
        added: What these start with and the stored ids do not.
    """

    def __init__(self, table: StoredTable, start: int = 0, stop: int | None = None, removed: str = "", added: str = ""):
        super().__init__(table, "image_id", start, stop)
        self.removed = removed
        self.added = added

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            stored = self._values(key).to_pylist()
            return [self._changed(image_id) for image_id in stored] if self.added or self.removed else stored
        return self._changed(self._value(key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # like a list

    def _changed(self, image_id: str) -> str:
        return self.added + image_id.removeprefix(self.removed)

    def part(self, start: int, stop: int) -> "StoredIds":
        """Consecutive rows, not read yet."""
        return StoredIds(self.table, self.start + start, self.start + stop, self.removed, self.added)


class StoredNumbers(_Stored):
    """A column of integers of a stored table.

    Args:
        table: The table.
        name: The column.
        start: First row.
        stop: The row after the last; None for all rows.
        lookup: What stands for each stored number, int32 [K]; the last one stands for -1. None changes nothing.
    """

    def __init__(
        self,
        table: StoredTable,
        name: str,
        start: int = 0,
        stop: int | None = None,
        lookup: np.ndarray | None = None,
    ):
        super().__init__(table, name, start, stop)
        self.lookup = lookup

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            values = self._values(key).to_numpy()
            return values if self.lookup is None else self.lookup[values]
        value = self._value(key)
        return value if self.lookup is None else int(self.lookup[value])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def part(self, start: int, stop: int) -> "StoredNumbers":
        """Consecutive rows, not read yet."""
        return StoredNumbers(self.table, self.name, self.start + start, self.start + stop, self.lookup)


class Chain(Sequence):
    """Columns one after another, of which at least one is on disk."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.starts = [0, *accumulate(len(part) for part in self.parts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            found = [
                part[max(start - first, 0) : max(stop - first, 0)]
                for part, first in zip(self.parts, self.starts, strict=False)
            ]
            is_text = any(isinstance(piece, list) for piece in found)
            return [value for piece in found for value in piece] if is_text else np.concatenate(found)
        place = bisect_right(self.starts, key) - 1
        return self.parts[place][key - self.starts[place]]

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts:
            yield from part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # like a list

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def chunks(column: Any) -> Iterator[Any]:
    """Parts of a column in order, of a size that fits in memory."""
    for start in range(0, len(column), GROUP_ROWS):
        yield column[start : start + GROUP_ROWS]


def part_of(column: Any, start: int, stop: int) -> Any:
    """Consecutive rows of a column; of a stored one, they are not read yet."""
    return column.part(start, stop) if isinstance(column, StoredIds | StoredNumbers) else column[start:stop]


def joined(columns: Sequence[Any]) -> Any:
    """Columns one after another: in memory if all of them are."""
    if all(isinstance(column, list) for column in columns):
        return [value for column in columns for value in column]
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(list(columns))
    return Chain(columns)


def with_prefix(image_ids: Sequence[str], prefix: str) -> Sequence[str]:
    """The same ids with a prefix."""
    if isinstance(image_ids, StoredIds):
        return StoredIds(image_ids.table, image_ids.start, image_ids.stop, image_ids.removed, prefix + image_ids.added)
    return [prefix + image_id for image_id in image_ids]


def without_prefix(image_ids: Sequence[str], prefix: str) -> Sequence[str]:
    """The same ids without a prefix that all of them have."""
    if isinstance(image_ids, StoredIds):
        return StoredIds(image_ids.table, image_ids.start, image_ids.stop, prefix, image_ids.added)
    return [image_id.removeprefix(prefix) for image_id in image_ids]


def looked_up(labels: Any, lookup: np.ndarray) -> Any:
    """Other labels for the same images: `lookup[label]`, whose last entry stands for -1."""
    if isinstance(labels, StoredNumbers):
        return StoredNumbers(labels.table, labels.name, labels.start, labels.stop, lookup)
    if isinstance(labels, Chain):
        return Chain([looked_up(part, lookup) for part in labels.parts])
    return lookup[labels]


def share_an_id(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether two columns of ids, each sorted, have an id in common; neither is kept in memory."""
    others = iter(second)
    other = next(others, None)
    for image_id in first:
        while other is not None and other < image_id:
            other = next(others, None)
        if other is None or other == image_id:
            return other is not None
    return False
