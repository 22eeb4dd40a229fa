"""WebDataset archives as a streamed dataset: a sample is the files in a tar that have the same name before the dot."""

import itertools
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.data_files import LITTLE_AHEAD, READ_AHEAD, FileOpener, place_columns
from hf_relabel.sources.image_dataset import class_labels, column_of, fields_of
from hf_relabel.sources.rows import Rows

KEY = "__key__"
"""The column with the common name of a sample's files."""


class TarFiles:
    """The archives of a split. The place of an image is its archive, and its position and size in it.

    Args:
        config: The source's settings.
        opener: Opens the archives.
        features: Features from the dataset's card; None to infer them from the samples.
    """

    part_columns = 1

    def __init__(self, config: SourceConfig, opener: FileOpener, features: Any = None):
        self.config = config
        self.opener = opener
        self.features = features

    def rows(self, scratch: Path | None = None) -> Rows:
        """The samples of all archives; their names and labels are kept in memory, whatever `scratch` is.

        The archives have no index, so this reads through them once.

        Raises:
            SourceError: An archive cannot be read.
        """
        samples: list[dict[str, Any]] = []
        places: list[tuple[int, int, int]] = []
        names: dict[str, None] = {}
        for number in range(len(self.opener.urls)):
            with self.opener.reading(number), self.opener.open(number) as raw:
                for sample, position, size in self._samples(raw):
                    names |= dict.fromkeys(sample)
                    samples.append(sample)
                    places.append((number, position, size))
        wanted = [self.config.label_column, self.config.id_column or KEY]
        columns = {name.partition(".")[0] if name not in names else name for name in wanted} & set(names)
        try:
            table = pa.table({name: [sample.get(name) for sample in samples] for name in columns})
        except pa.ArrowException as error:
            raise SourceError(
                f"{self.config.path}: the samples' {', '.join(sorted(columns))} have several types ({error})"
            ) from error
        schema = {name: table.schema.field(name).type for name in columns}
        fields = fields_of(self.features) if self.features is not None else dict.fromkeys(_dotted(schema))
        image = self.config.image_column
        paths = [f"{sample[KEY]}.{image}" if image in sample else None for sample in samples]
        return Rows(
            self.config.path,
            len(samples),
            list(dict.fromkeys([*names, *fields])),
            lambda name: column_of(table, name),
            lambda: pa.chunked_array([paths], pa.string()),
            lambda start, stop: place_columns(np.array(places[start:stop], np.int64).reshape(-1, 3)),
            class_labels(fields, self.config),
        )

    def read(self, places: np.ndarray) -> Iterator[bytes | None]:
        """Read the images at sorted places, int64 [N, 3]; None where a sample has no image.

        Raises:
            SourceError: An archive cannot be read.
        """
        for number, of_file in itertools.groupby(places.tolist(), key=lambda place: place[0]):
            wanted = list(of_file)
            with self.opener.reading(number), self.opener.open(number, _bytes_ahead(wanted)) as raw:
                for _, position, size in wanted:
                    if size < 0:
                        yield None
                        continue
                    raw.seek(position)
                    content = raw.read(size)
                    if len(content) < size:
                        raise EOFError("the archive ends inside an image")
                    yield content

    def _samples(self, raw: Any) -> Iterator[tuple[dict[str, Any], int, int]]:
        """The samples of an archive: small fields decoded, the image's position and size (-1 without one)."""
        from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

        sample: dict[str, Any] = {}
        position = size = -1
        with tarfile.open(fileobj=raw, mode="r:") as archive:
            for member in archive:
                if not member.isreg() or os.path.basename(member.name).startswith((".", "__")):
                    continue
                key, name = base_plus_ext(member.name)
                if key is None:
                    continue
                if sample and sample[KEY] != key:
                    yield sample, position, size
                    sample, position, size = {}, -1, -1
                if name in sample:
                    raise ValueError(f"the sample {key!r} has two files {name!r}")
                sample[KEY] = key
                sample[name] = None
                if name == self.config.image_column:
                    position, size = member.offset_data, member.size
                elif name in self._small_fields():
                    content = archive.extractfile(member).read()  # type: ignore[union-attr]  # it is a regular file
                    decode = WebDataset.DECODERS.get(name.split(".")[-1].lower())
                    sample[name] = decode(content) if decode is not None else content
        if sample:
            yield sample, position, size

    def _small_fields(self) -> set[str]:
        """The files of a sample that ids and labels are in; of `json.label`, the file `json`."""
        names = [name for name in (self.config.label_column, self.config.id_column) if name is not None]
        return {*names, *(name.partition(".")[0] for name in names)}


def _bytes_ahead(places: list[list[int]]) -> int:
    """How much to read at a time to get at images, (file, position, size) by position: little if they are far apart."""
    span = places[-1][1] + places[-1][2] - places[0][1]
    is_dense = sum(size for _, _, size in places) > span / 4
    return min(READ_AHEAD, max(span, 1)) if is_dense else LITTLE_AHEAD


def _dotted(schema: dict[str, pa.DataType], prefix: str = "") -> list[str]:
    """The names of columns and, with dots, of the fields of columns that contain an object."""
    found = []
    for name, kind in schema.items():
        found.append(prefix + name)
        if pa.types.is_struct(kind):
            inner = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
            found += _dotted(inner, f"{prefix}{name}.")
    return found
