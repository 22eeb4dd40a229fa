"""Files with a classifier's predictions, and matching its classes with those in a dataset.

A predictions file is either Parquet with the columns `image_id` and `scores` (all classes) and the class names in its
metadata, or a NumPy array `.npy` [N, C] in the order of the images' file names.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_relabel.config.checks import regular_file
from hf_relabel.config.json_file import parse_json
from hf_relabel.errors import SourceError
from hf_relabel.evaluation.ground_truth import file_name_places, refuse_unknown
from hf_relabel.run.store import atomic_open

_KEY = b"hf_relabel"


@dataclass(frozen=True)
class Predictions:
    """Scores, float32 [N, C], with image ids and class names if they are known."""

    scores: np.ndarray
    image_ids: list[str] | None
    class_names: list[str] | None

    def rows_of(self, image_ids: Sequence[str], path: Path) -> np.ndarray:
        """The row of each image, int64 [N]; without ids, rows are in the order of the images' file names.

        Raises:
            SourceError: An image has no prediction, or the file has no ids and another number of rows.
        """
        if self.image_ids is not None:
            rows = {image_id: row for row, image_id in enumerate(self.image_ids)}
            refuse_unknown(image_ids, rows, f"have no prediction in {path}")
            return np.array([rows[image_id] for image_id in image_ids], dtype=np.int64)
        if len(image_ids) != len(self.scores):
            raise SourceError(
                f"{path}: has {len(self.scores)} rows, but there are {len(image_ids)} images; give the predictions "
                "for these images, or a .parquet file with image ids"
            )
        return file_name_places(image_ids)


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions with image ids and class names as Parquet, atomically."""
    scores = pa.FixedSizeListArray.from_arrays(
        predictions.scores.astype(np.float32).ravel(), predictions.scores.shape[1]
    )
    table = pa.table({"image_id": predictions.image_ids, "scores": scores})
    table = table.replace_schema_metadata({_KEY: json.dumps({"class_names": predictions.class_names})})
    with atomic_open(path) as file:
        pq.write_table(table, file, compression="zstd")


_DAMAGE = (OSError, ValueError, EOFError, SyntaxError, TokenError, RecursionError, MemoryError)
"""What Arrow and NumPy raise for damaged files; NumPy parses a file's header as Python."""


def load_predictions(path: Path) -> Predictions:
    """Read predictions.

    Raises:
        SourceError: The file cannot be read, or does not contain finite scores of the same classes for each image.
    """
    try:
        if path.suffix == ".npy":
            return _checked(path, Predictions(np.load(regular_file(path), allow_pickle=False), None, None))
        table = pq.read_table(regular_file(path))
        names = parse_json((table.schema.metadata or {}).get(_KEY, b"{}"))
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path}: cannot be read as predictions ({reason})") from error
    missing = {"image_id", "scores"} - set(table.column_names)
    if missing:
        raise SourceError(f"{path}: no column {min(missing)!r}; predictions have image_id and scores")
    kind = table.schema.field("scores").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type) or table["scores"].null_count:
        raise SourceError(f"{path}: `scores` must be a list of numbers for each image, got {kind}")
    widths = pc.unique(pc.list_value_length(table["scores"])).to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise SourceError(f"{path}: each image must have scores of the same classes, got {widths[:3]} scores")
    scores = pc.list_flatten(table["scores"]).to_numpy().astype(np.float32).reshape(-1, widths[0])
    class_names = names.get("class_names") if isinstance(names, dict) else names
    return _checked(path, Predictions(scores, table["image_id"].to_pylist(), class_names))


def _checked(path: Path, predictions: Predictions) -> Predictions:
    scores, names = predictions.scores, predictions.class_names
    if scores.ndim != 2 or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        raise SourceError(
            f"{path}: must contain finite scores [images, classes], got {scores.dtype} {list(scores.shape)}"
        )
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise SourceError(f"{path}: its class names are not a list of names; store the predictions again")
    if names is not None and len(names) != scores.shape[1]:
        raise SourceError(f"{path}: has {len(names)} class names but {scores.shape[1]} scores per image")
    return predictions


def match_classes(ours: Sequence[str], theirs: Sequence[str], by: str, who: str) -> np.ndarray:
    """Find the column of each dataset class among the classes of a classifier.

    Args:
        ours: Class names of the classifier.
        theirs: Class names of the dataset.
        by: `name`, or `index` for a classifier with the same classes under other names.
        who: Name of the classifier, for messages.

    Returns:
        Column of each dataset class, int64 [len(theirs)].

    Raises:
        SourceError: The classifier lacks classes of the dataset.
    """
    if by == "index":
        if len(ours) != len(theirs):
            raise SourceError(
                f"{who}: has {len(ours)} classes, but the images have {len(theirs)}; use a model with the same classes"
            )
        return np.arange(len(theirs))
    columns = _columns_by_name(ours, theirs)
    missing = [name for name in theirs if name not in columns]
    if missing:
        hint = (
            "; if they are the same classes in the same order, match them by index" if len(ours) == len(theirs) else ""
        )
        raise SourceError(
            f"{who}: lacks {len(missing)} of the {len(theirs)} classes of the images: "
            f"{', '.join(map(repr, missing[:3]))}; it has {', '.join(map(repr, ours[:3]))} ...{hint}"
        )
    return np.array([columns[name] for name in theirs], dtype=np.int64)


def _columns_by_name(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, int]:
    """The column of each of their classes that is among ours under the same name, or under one of several names.

    Classifiers of ImageNet name a class by all words of its synset (`tench, Tinca tinca`), and datasets by one, with a
    note in parentheses where two classes share it (`crane (bird)`).
    """
    words = [{_plain(name), *(word.strip().casefold() for word in name.split(","))} for name in ours]
    plain = [_plain(name) for name in theirs]
    more = len(ours) - len(theirs)
    starts = range(more + 1) if more <= 1 else ()  # MobileNet has one more class, background, which is its first
    in_order = [start for start in starts if all(word in words[start + place] for place, word in enumerate(plain))]
    if len(in_order) == 1:  # the same classes in the same order, which decides homonyms
        return {name: in_order[0] + place for place, name in enumerate(theirs)}
    columns_of: dict[str, list[int]] = {}
    for column, known in enumerate(words):
        for word in known:
            columns_of.setdefault(word, []).append(column)
    exact = {name: column for column, name in enumerate(ours)}
    uses = Counter(plain)
    found = {}
    for name, word in zip(theirs, plain, strict=True):
        if name in exact:
            found[name] = exact[name]
        elif len(columns_of.get(word, [])) == 1 == uses[word]:
            found[name] = columns_of[word][0]
    return found


def _plain(name: str) -> str:
    return re.sub(r"\s*\([^()]*\)$", "", name).casefold()
