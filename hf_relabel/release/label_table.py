"""The label sets of a release as arrays in memory."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.release.reader import Release
from hf_relabel.schema import NO_LABEL

_COLUMNS = ["image_id", "label", "labels", "scores", "label_score"]


@dataclass(frozen=True)
class LabelTable:
    """Label sets in row order, stored one after another in flat arrays.

    Args:
        origin: What the user called the release, for messages.
        class_names: Names of the C classes.
        image_ids: Ids of the N images, each occurring once.
        original: int32 [N], the single label each image came with; NO_LABEL where it has none.
        offsets: int64 [N + 1]; image i owns the entries `offsets[i]:offsets[i + 1]` of `classes` and `scores`.
        classes: int32 [M], class ids.
        scores: float32 [M], in [0, 1].
        label_scores: float32 [N], how well each image supports its original label, in [0, 1]; NaN where this was not
            measured.
        regions: The column `regions` with masks, if it was read.
    """

    origin: str
    class_names: list[str]
    image_ids: list[str]
    original: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    label_scores: np.ndarray
    regions: pa.ChunkedArray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def rows(self) -> np.ndarray:
        """Image of each entry, int64 [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


def label_table(release: Release, *, with_regions: bool = False, origin: str | None = None) -> LabelTable:
    """Read the label sets of a release.

    Args:
        release: The release.
        with_regions: Also read the column `regions`, with masks.
        origin: What the user called the release; by default its folder.

    Raises:
        ReleaseError: A file cannot be read, or its rows are not valid.
    """
    origin = origin or str(release.folder)
    config_name, columns = ("regions", [*_COLUMNS, "regions"]) if with_regions else ("labels", _COLUMNS)
    table = pa.Table.from_batches(release.batches(config_name, columns))
    image_ids = table["image_id"].to_pylist()
    lengths = pc.list_value_length(table["labels"]).to_numpy()
    original = table["label"].fill_null(NO_LABEL).to_numpy().astype(np.int32)
    classes = pc.list_flatten(table["labels"]).to_numpy().astype(np.int32)
    return LabelTable(
        origin=origin,
        class_names=release.class_names,
        image_ids=image_ids,
        original=original,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        classes=classes,
        scores=pc.list_flatten(table["scores"]).to_numpy().astype(np.float32),
        label_scores=table["label_score"].cast(pa.float32()).to_numpy(),
        regions=table["regions"] if with_regions else None,
    )
