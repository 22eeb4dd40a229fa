"""The images of a split, sorted by id: in memory, or on disk if there is a folder for them."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.schema import Excluded
from hf_relabel.sources.columns import Numbers, StoredIds, StoredNumbers
from hf_relabel.sources.stored_table import StoredTable, TableWriter, writing


@dataclass(frozen=True)
class Listing:
    """The images of a split that are used.

    Args:
        image_ids: N unique ids, sorted.
        labels: Class index of each, int32 [N]; -1 for an image without a label.
        places: Where the images are, each int64 [N].
        class_names: The C class names.
        excluded: The images that cannot be used.
    """

    image_ids: Sequence[str]
    labels: Numbers
    places: dict[str, Any]
    class_names: list[str]
    excluded: list[Excluded]


def table_schema(places: Sequence[str]) -> pa.Schema:
    """The columns of a table of images: `image_id`, `label` and their places."""
    columns = {"image_id": pa.string(), "label": pa.int32(), **dict.fromkeys(places, pa.int64())}
    return pa.schema(columns.items())


def make_listing(
    config: SourceConfig,
    batches: Iterator[pa.Table],
    places: Sequence[str],
    class_names: list[str],
    excluded: list[Excluded],
    scratch: Path | None,
) -> Listing:
    """Make a listing of sorted rows.

    Args:
        config: The source's settings; `limit` of the images are listed.
        batches: The rows, with the columns of `table_schema`. All are read, whatever the limit.
        places: The columns that say where the images are.
        class_names: The C class names.
        excluded: The images that cannot be used; read after the last batch.
        scratch: Folder for the table; None for a listing in memory.

    Raises:
        SourceError: There are no rows.
    """
    schema = table_schema(places)
    if scratch is None:
        tables = list(_first(batches, config.limit))
        table = pa.concat_tables([schema.empty_table(), *(table.select(schema.names).cast(schema) for table in tables)])
        image_ids: Sequence[str] = table["image_id"].to_pylist()
        labels: Numbers = table["label"].to_numpy()
        columns: dict[str, Any] = {name: table[name].to_numpy() for name in places}
    else:
        path = Path(tempfile.mkdtemp(dir=scratch)) / "images.parquet"
        with writing(path), open(path, "wb") as file, TableWriter(file, schema) as writer:
            for batch in _first(batches, config.limit):
                writer.write(batch.select(schema.names))
            layout = writer.finish()
        stored = StoredTable(path, layout)
        image_ids, labels = StoredIds(stored), StoredNumbers(stored, "label")
        columns = {name: StoredNumbers(stored, name) for name in places}
    if not len(image_ids):
        raise SourceError(f"{config.path}: no image is left; check --source.only_classes and --source.unlabeled")
    return Listing(image_ids, labels, columns, class_names, excluded)


def repeated(batches: Iterator[pa.Table], found: list[pa.Table]) -> Iterator[pa.Table]:
    """Pass sorted rows on; the first two rows with the same id are put into `found`."""
    last: pa.Table | None = None
    for batch in filter(len, batches):
        if not found:
            table = batch if last is None else pa.concat_tables([last, batch])
            ids = table["image_id"].combine_chunks()
            ids = ids if isinstance(ids, pa.Array) else ids.chunk(0)
            place = pc.index(pc.equal(ids[1:], ids[:-1]), True).as_py()
            if place >= 0:
                found.append(table.slice(place, 2))
        last = batch.slice(len(batch) - 1)
        yield batch


def _first(batches: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """The first rows; the others are read too."""
    left = limit
    for batch in batches:
        if left is None:
            yield batch
        elif left:
            yield batch.slice(0, left)
            left -= min(left, len(batch))


def scratch_folder(scratch: Path | None) -> Path | None:
    """A new folder in a folder for temporary files."""
    return None if scratch is None else Path(tempfile.mkdtemp(dir=scratch))


def as_columns(image_ids: Sequence[str], **columns: Any) -> pa.Table:
    """Rows for a sorter."""
    numbers = {name: np.asarray(values) for name, values in columns.items()}
    return pa.table({"image_id": pa.array(image_ids, pa.string()), **numbers})
