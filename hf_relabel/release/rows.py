"""Checks of a release's rows, for the writer and the reader."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.release.run_lengths import areas_of
from hf_relabel.schema import NULLABLE
from hf_relabel.sources.image_ids import is_safe

MAX_PIXELS = 200_000_000
"""Maximum size of an image; Pillow refuses to decode larger ones."""

MAX_TEXT = 4096
"""Bytes of an id or a name; the longest path on Linux."""

_ROUNDING = 1e-6

_MAYBE_UNSAFE = r"[^ -~]|\.\.|\\|:|^/|^$"
"""What every id that is not safe contains; other ids, nearly all, need no closer look."""

_REGION_TYPES = {
    "region_id": pa.string(),
    "label": pa.int64(),
    "score": pa.float32(),
    "top_labels": pa.list_(pa.int64()),
    "top_scores": pa.list_(pa.float32()),
    "bbox": pa.list_(pa.float32()),
    "area": pa.int64(),
    "generator": pa.string(),
    "segmentation": pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())]),
}

COLUMN_TYPES: dict[str, pa.DataType] = {
    "image_id": pa.string(),
    "label": pa.int64(),
    "labels": pa.list_(pa.int64()),
    "scores": pa.list_(pa.float32()),
    "label_score": pa.float32(),
    "width": pa.int32(),
    "height": pa.int32(),
    "regions": pa.list_(pa.struct(_REGION_TYPES.items())),
    "source": pa.string(),
    "checked_labels": pa.list_(pa.int64()),
    "version": pa.string(),
}
"""Types of a release's columns, as `schema.release_schema` has them; that function needs the datasets library."""

CORRECTED_COLUMNS = ("source", "checked_labels")
"""Columns that only a release with corrections by hand has, in both configurations."""

COLUMNS_OF = {
    "labels": ("image_id", "label", "labels", "scores", "label_score", "version"),
    "regions": tuple(name for name in COLUMN_TYPES if name not in CORRECTED_COLUMNS),
}
"""Columns that each configuration of every release has."""


def columns_in(config_name: str | None, names: Collection[str]) -> tuple[str, ...]:
    """The columns that a file must have: those of its configuration, and of a release with corrections if it has any.

    Args:
        config_name: The configuration.
        names: The columns of the file.
    """
    is_corrected = any(name in names for name in CORRECTED_COLUMNS)
    return COLUMNS_OF[config_name or "labels"] + (CORRECTED_COLUMNS if is_corrected else ())


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
        text = reason.format(value=self.values[place].as_py())
        return InvalidRow(int(self.rows[place]), self.name, text if len(text) < 200 else f"{text[:200]}...")


def find_invalid_row(table: pa.Table, num_classes: int) -> InvalidRow | None:
    """Check the columns of a table that belong to a release.

    No value may be missing except those of `schema.NULLABLE`; ids must be safe, and classes in range and no two of a
    list equal; scores finite and in [0, 1], one per label; sizes plausible; masks and boxes within their image, and
    run lengths those of a mask with the region's area.

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
        if found is None and pa.types.is_string(values.values.type) and not values.name.endswith("counts"):
            lengths = pc.fill_null(pc.binary_length(values.values), 0).to_numpy(zero_copy_only=False)
            found = values.invalid(lengths > MAX_TEXT, f"is longer than {MAX_TEXT:,} bytes")
        if found is not None:
            return found
    return (
        _unequal_lengths(columns, "labels", "scores")
        or _unequal_lengths(columns, "regions.top_labels", "regions.top_scores")
        or _unsafe_ids(columns)
        or _repeated_classes(columns, "labels")
        or _repeated_classes(columns, "regions.top_labels")
        or _implausible_sizes(columns)
        or _invalid_masks(columns)
        or _invalid_boxes(columns)
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


def _unsafe_ids(columns: dict[str, _Values]) -> InvalidRow | None:
    ids = columns.get("image_id")
    if ids is None:
        return None
    is_bad = pc.match_substring_regex(ids.values, _MAYBE_UNSAFE).to_numpy(zero_copy_only=False).copy()
    for place in np.flatnonzero(is_bad):
        is_bad[place] = not is_safe(ids.values[int(place)].as_py())
    return ids.invalid(is_bad, "is {value!a}, but must be a relative path on one line, without `..`")


def _repeated_classes(columns: dict[str, _Values], name: str) -> InvalidRow | None:
    lists = columns.get(f"{name}.list")
    if lists is None:
        return None
    parents = pc.list_parent_indices(lists.values).to_numpy(zero_copy_only=False)
    classes = pc.list_flatten(lists.values).to_numpy(zero_copy_only=False)
    order = np.lexsort((classes, parents))
    same = (np.diff(parents[order]) == 0) & (np.diff(classes[order]) == 0)
    is_bad = np.zeros(len(lists.values), bool)
    is_bad[parents[order][1:][same]] = True
    return _Values(name, lists.values, lists.rows).invalid(is_bad, "has a class twice: {value}")


def _implausible_sizes(columns: dict[str, _Values]) -> InvalidRow | None:
    sides = [columns[name].values.to_numpy().astype(np.int64) for name in ("width", "height") if name in columns]
    if len(sides) == 2:
        width, height = sides
        is_bad = (width < 0) | (height < 0) | (width * height > MAX_PIXELS)
        if (found := columns["width"].invalid(is_bad, "has an implausible size")) is not None:
            return found
    sizes = columns.get("regions.segmentation.size.list")
    if sizes is None:
        return None
    place = _Values("regions.segmentation.size", sizes.values, sizes.rows)
    lengths = pc.list_value_length(sizes.values).to_numpy(zero_copy_only=False)
    if (wrong := place.invalid(lengths != 2, "is not [height, width]")) is not None:
        return wrong
    pairs = _pairs(sizes)
    if len(sides) == 2:
        expected = np.stack([height[sizes.rows], width[sizes.rows]], axis=1)
        return place.invalid((pairs != expected).any(axis=1), "is {value}, another size than the image's")
    is_bad = (pairs < 0).any(axis=1) | (pairs.prod(axis=1) > MAX_PIXELS)
    return place.invalid(is_bad, "is {value}, an implausible size")


def _pairs(sizes: _Values) -> np.ndarray:
    """Heights and widths of masks, int64 [N, 2]."""
    return pc.list_flatten(sizes.values).to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, 2)


def _invalid_masks(columns: dict[str, _Values]) -> InvalidRow | None:
    counts, sizes = columns.get("regions.segmentation.counts"), columns.get("regions.segmentation.size.list")
    if counts is None or sizes is None:
        return None
    areas, is_valid = areas_of(counts.values, _pairs(sizes).prod(axis=1))
    if (found := counts.invalid(~is_valid, "is not the run lengths of a mask of its size")) is not None:
        return found
    area = columns["regions.area"]
    return area.invalid(area.values.to_numpy() != areas, "is {value}, but the mask has another number of pixels")


def _invalid_boxes(columns: dict[str, _Values]) -> InvalidRow | None:
    boxes, sizes = columns.get("regions.bbox.list"), columns.get("regions.segmentation.size.list")
    if boxes is None or sizes is None:
        return None
    place = _Values("regions.bbox", boxes.values, boxes.rows)
    lengths = pc.list_value_length(boxes.values).to_numpy(zero_copy_only=False)
    if (found := place.invalid(lengths != 4, "is {value}, not [x, y, width, height]")) is not None:
        return found
    x, y, width, height = pc.list_flatten(boxes.values).to_numpy(zero_copy_only=False).reshape(-1, 4).T
    bottom, right = _pairs(sizes).T
    # Written so that NaN is not within. Boxes of other tools are up to a pixel larger than their masks.
    is_within = (np.minimum(x, y) >= 0) & (np.minimum(width, height) >= 0)
    is_within &= (x + width <= right + 1) & (y + height <= bottom + 1)
    return place.invalid(~is_within, "is {value}, not a box within the image")
