"""Checks of a release's rows, for the writer and the reader."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.schema import NULLABLE

MAX_PIXELS = 200_000_000
"""Maximum size of an image; Pillow refuses to decode larger ones."""

_ROUNDING = 1e-6


@dataclass(frozen=True)
class InvalidRow:
    """The first invalid value that was found: its row in the table (from 0), its column, and the reason."""

    row: int
    column: str
    reason: str


@dataclass(frozen=True)
class _Values:
    """The values of a column or of a field in nested columns, with the row of each."""

    name: str
    values: pa.Array
    rows: np.ndarray

    def invalid(self, is_bad: np.ndarray, reason: str) -> InvalidRow | None:
        """The first bad value; `reason` may contain `{value}`."""
        if not is_bad.any():
            return None
        place = int(np.argmax(is_bad))
        return InvalidRow(int(self.rows[place]), self.name, reason.format(value=self.values[place].as_py()))


def find_invalid_row(table: pa.Table, num_classes: int) -> InvalidRow | None:
    """Check the columns of a table that belong to a release.

    No value may be missing except those of `schema.NULLABLE`, classes must be in range, scores finite and in [0, 1],
    each label must have a score, sizes must be plausible, and masks must have the size of their image.

    Args:
        table: Rows with any columns of a release configuration.
        num_classes: Number of classes.
    """
    columns = {values.name: values for values in _flatten(table)}
    for values in columns.values():
        is_null = values.values.is_null().to_numpy(zero_copy_only=False)
        found = None if values.name in NULLABLE else values.invalid(is_null, "has no value")
        if found is None and values.name.endswith(("label", "labels")) and not pa.types.is_list(values.values.type):
            numbers = values.values.to_numpy(zero_copy_only=False)
            reason = f"has class {{value}}, but valid classes are 0 to {num_classes - 1}"
            found = values.invalid((numbers < 0) | (numbers >= num_classes), reason)
        if found is None and values.name.endswith(("score", "scores")) and not pa.types.is_list(values.values.type):
            numbers = values.values.to_numpy(zero_copy_only=False)
            in_range = (numbers >= 0) & (numbers <= 1 + _ROUNDING)
            found = values.invalid(~in_range & ~is_null, "has score {value}, not in [0, 1]")
        if found is not None:
            return found
    return (
        _unequal_lengths(columns, "labels", "scores")
        or _unequal_lengths(columns, "regions.top_labels", "regions.top_scores")
        or _implausible_sizes(columns)
    )


def _flatten(table: pa.Table) -> Iterator[_Values]:
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty table
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        yield from _nested(_Values(name, column, np.arange(len(column))))


def _nested(values: _Values) -> Iterator[_Values]:
    """The values themselves, and all values in their lists (with `.list` for plain ones) and structs."""
    array, rows = values.values, values.rows
    yield _Values(values.name if not pa.types.is_list(array.type) else f"{values.name}.list", array, rows)
    if pa.types.is_list(array.type):
        parents = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
        yield from _nested(_Values(values.name, pc.list_flatten(array), rows[parents]))
    elif pa.types.is_struct(array.type):
        is_valid = array.is_valid().to_numpy(zero_copy_only=False)
        present = array if is_valid.all() else array.drop_null()
        for field in array.type:
            child = pc.struct_field(present, field.name)
            yield from _nested(_Values(f"{values.name}.{field.name}", child, rows[is_valid]))


def _unequal_lengths(columns: dict[str, _Values], labels: str, scores: str) -> InvalidRow | None:
    if f"{labels}.list" not in columns or f"{scores}.list" not in columns:
        return None
    lists = columns[f"{scores}.list"]
    lengths = [pc.list_value_length(columns[f"{name}.list"].values).to_numpy() for name in (labels, scores)]
    place = _Values(scores, lists.values, lists.rows)
    return place.invalid(lengths[0] != lengths[1], f"does not have exactly one score for each of `{labels}`")


def _implausible_sizes(columns: dict[str, _Values]) -> InvalidRow | None:
    if "width" not in columns or "height" not in columns:
        return None
    width, height = (columns[name].values.to_numpy().astype(np.int64) for name in ("width", "height"))
    found = columns["width"].invalid(
        (width < 0) | (height < 0) | (width * height > MAX_PIXELS), "has an implausible size"
    )
    sizes = columns.get("regions.segmentation.size.list")
    if found is not None or sizes is None:
        return found
    place = _Values("regions.segmentation.size", sizes.values, sizes.rows)
    lengths = pc.list_value_length(sizes.values).to_numpy()
    if (wrong := place.invalid(lengths != 2, "is not [height, width]")) is not None:
        return wrong
    pairs = pc.list_flatten(sizes.values).to_numpy(zero_copy_only=False).reshape(-1, 2)
    expected = np.stack([height[sizes.rows], width[sizes.rows]], axis=1)
    return place.invalid((pairs != expected).any(axis=1), "is {value}, another size than the image's")
