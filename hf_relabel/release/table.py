"""A release's label sets as arrays, from a release folder or from the Hub (`user/name@revision`)."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_relabel.errors import ReleaseError


@dataclass(frozen=True)
class LabelTable:
    """Label sets in the order of their rows; the sets lie one after the other in flat arrays.

    Args:
        origin: What the user called it, for messages.
        class_names: Names of the C classes.
        image_ids: N names of images, each once.
        original: int32 [N], the single label each image came with.
        offsets: int64 [N + 1]; image i has entries offsets[i] up to offsets[i + 1] of the next two.
        classes: int32 [M], class indices.
        scores: float32 [M], each class's score; None if the release has none.
        regions: The column `regions` of the configuration with masks, if it was asked for.
    """

    origin: str
    class_names: list[str]
    image_ids: list[str]
    original: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None
    regions: pa.ChunkedArray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def rows(self) -> np.ndarray:
        """Image of each entry, int64 [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def has_scores(self) -> bool:
        """Whether the release gives each label a score."""
        return self.scores is not None

    def need_scores(self, use: str) -> np.ndarray:
        """The scores, float32 [M].

        Raises:
            ReleaseError: The release has none; the message says what `use` they would have had.
        """
        if self.scores is None:
            raise ReleaseError(f"{self.origin}: has no column `scores`, which {use} needs; rebuild it with scores")
        return self.scores


def load_labels(release: str, split: str | None = None, with_regions: bool = False) -> LabelTable:
    """Read a release's label sets.

    Args:
        release: A release folder, or a dataset on the Hub as `user/name` or `user/name@revision`.
        split: Split to read; by default the release's only one.
        with_regions: Read the configuration `regions`, with masks.

    Raises:
        ReleaseError: Nothing readable is there, the split is not, or the columns are not a release's.
    """
    config_name = "regions" if with_regions else "labels"
    if Path(release).is_dir():
        table = _read_folder(Path(release), config_name, split)
    else:
        table = _read_hub(release, config_name, split)
    return _label_table(release, table)


def _read_folder(folder: Path, config_name: str, split: str | None) -> pa.Table:
    files = sorted((folder / "data" / config_name).glob("*.parquet"))
    splits = sorted({file.name.rsplit("-", 3)[0] for file in files})
    if not files:
        raise ReleaseError(f"{folder}: no release here (no data/{config_name}/*.parquet); `hf-relabel build` makes one")
    split = _choose_split(str(folder), splits, split)
    chosen = [file for file in files if file.name.rsplit("-", 3)[0] == split]
    try:
        return pa.concat_tables([pq.read_table(file) for file in chosen])
    except (pa.ArrowInvalid, OSError) as error:
        raise ReleaseError(f"{folder}: damaged ({str(error).splitlines()[0]}); build or download it again") from error


def _read_hub(release: str, config_name: str, split: str | None) -> pa.Table:
    name, _, revision = release.partition("@")
    if name.count("/") != 1:
        raise ReleaseError(f"{release}: neither a release folder nor a dataset on the Hub such as user/name@v1.0.0")
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        opened = datasets.load_dataset(name, config_name, revision=revision or None)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0]
        raise ReleaseError(
            f"{release}: cannot be loaded from the Hub ({reason}); check its name and revision"
        ) from error
    data = opened[_choose_split(release, sorted(opened), split)]
    _refuse_other_version(release, revision, data)
    return data.with_format("arrow")[:].cast(data.features.arrow_schema)


def _refuse_other_version(release: str, revision: str, data: Any) -> None:
    """Where a tag is missing, or offline, datasets 4 takes any version that its cache has; every row names its own."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+", revision) or "version" not in data.column_names:
        return
    found = sorted(data.unique("version"))
    if found not in ([], [revision[1:]]):
        raise ReleaseError(
            f"{release}: cannot be loaded from the Hub (the library gave rows of {', '.join(found)} from its cache); "
            "check its name and revision"
        )


def _choose_split(release: str, splits: list[str], split: str | None) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        asked = f"split {split!r} is not there" if split else "name a split"
        raise ReleaseError(f"{release}: {asked}; it has {', '.join(splits)}")
    return split


def _label_table(origin: str, table: pa.Table) -> LabelTable:
    missing = [name for name in ("image_id", "label", "labels") if name not in table.column_names]
    if missing:
        raise ReleaseError(f"{origin}: not a release, the column {missing[0]!r} is missing")
    class_names = _class_names(origin, table.schema)
    image_ids = table["image_id"].to_pylist()
    if len(set(image_ids)) != len(image_ids):
        raise ReleaseError(f"{origin}: {len(image_ids) - len(set(image_ids))} image ids occur twice; build it again")
    classes = pc.list_flatten(table["labels"]).to_numpy().astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(table["labels"]).to_numpy())])
    scores = None
    if "scores" in table.column_names:
        scores = pc.list_flatten(table["scores"]).to_numpy().astype(np.float32)
        if not np.array_equal(pc.list_value_length(table["scores"]).to_numpy(), np.diff(offsets)):
            raise ReleaseError(f"{origin}: labels and scores differ in number; build it again")
    if len(classes) and not (classes.min() >= 0 and classes.max() < len(class_names)):
        raise ReleaseError(f"{origin}: holds class {classes.max()}, it has {len(class_names)} classes; build it again")
    original = table["label"].to_numpy().astype(np.int32)
    regions = table["regions"] if "regions" in table.column_names else None
    return LabelTable(origin, class_names, image_ids, original, offsets.astype(np.int64), classes, scores, regions)


def _class_names(origin: str, schema: pa.Schema) -> list[str]:
    """Class names from the feature of `label` that `datasets` keeps in a Parquet file's metadata."""
    metadata: dict[str, Any] = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get("label", {}).get("names")
    if not names:
        raise ReleaseError(f"{origin}: the column `label` has no class names; build it again")
    return list(names)
