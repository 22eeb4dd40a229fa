"""Which images of a source are used: a list of ids, a list of classes, only labeled ones, the first few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.schema import Excluded
from hf_relabel.sources.classes import nearest

UNLABELED = "no label"


@dataclass(frozen=True)
class Selected:
    """The images that are used.

    Args:
        places: Their places in the full list, sorted by id, int64 [N].
        labels: Class index of each, int32 [N].
        class_names: The C class names.
        excluded: The images that have no usable label.
    """

    places: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    excluded: list[Excluded]


def select_images(
    config: SourceConfig,
    image_ids: Sequence[str],
    labels: np.ndarray,
    class_names: list[str],
    keys: Mapping[str, int],
    given: Sequence[Any] | None = None,
) -> Selected:
    """Select the images that the configuration asks for.

    Args:
        config: The source's settings.
        image_ids: M unique ids in any order.
        labels: Class index of each, int32 [M]; -1 where the label is missing or unknown.
        class_names: Names of the classes.
        keys: Class index of each key (folder name or stored label), in which classes can be named too.
        given: What the dataset has as the label of each image, for messages.

    Raises:
        SourceError: A listed id or class does not exist, images have no usable label, or none is left.
    """
    places = np.arange(len(image_ids), dtype=np.int64)
    if config.only_ids is not None:
        places = places[_listed(config, image_ids)]
    keeps = not config.labeled or config.unlabeled == "keep"
    unlabeled = places[:0] if keeps else places[labels[places] < 0]
    excluded = [Excluded(image_ids[place], _reason(place, given)) for place in unlabeled]
    if excluded and config.unlabeled == "refuse":
        first, reason, _ = excluded[0]
        raise SourceError(
            f"{config.path}: {len(excluded)} of {len(places)} images cannot be used, such as {first!r}: {reason} "
            f"(there are {len(class_names)} classes); fix the labels, set --source.class_names, or leave these images "
            "out with --source.unlabeled skip"
        )
    places = places if keeps else places[labels[places] >= 0]
    if config.only_classes is not None:
        wanted = _classes(config, class_names, keys)
        places = places[np.isin(labels[places], wanted)]
        class_names = [class_names[index] for index in wanted]
        new_index = np.full(int(labels.max(initial=0)) + 1, -1, np.int32)
        within = [index for index in wanted if index < len(new_index)]
        new_index[within] = np.arange(len(wanted), dtype=np.int32)[: len(within)]
        labels = np.where(labels >= 0, new_index[labels], -1).astype(np.int32)
    if not len(places):
        raise SourceError(f"{config.path}: no image is left; check --source.only_classes and --source.unlabeled")
    order = sorted(places.tolist(), key=image_ids.__getitem__)[: config.limit]
    kept = np.array(order, np.int64)
    return Selected(kept, labels[kept], class_names, sorted(excluded))


def read_lines(path: str, setting: str) -> list[str]:
    """Read the lines of a text file, without blank ones.

    Raises:
        SourceError: The file cannot be read, or has no lines.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").split("\n")]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check --source.{setting}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not any(lines):
        raise SourceError(f"{path}: has no lines; --source.{setting} needs one per line")
    return [line for line in lines if line]


def _listed(config: SourceConfig, image_ids: Sequence[str]) -> np.ndarray:
    """Whether each image is in the file of ids, bool [M]."""
    listed = set(read_lines(str(config.only_ids), "only_ids"))
    kept = np.array([image_id in listed for image_id in image_ids], bool)
    if kept.sum() < len(listed):
        unknown = sorted(listed - set(image_ids))
        raise SourceError(
            f"{config.only_ids}: {len(unknown)} of {len(listed)} ids are not in {config.path}, such as {unknown[0]!r}; "
            f"an id there is {min(image_ids)!r}"
        )
    return kept


def _classes(config: SourceConfig, class_names: list[str], keys: Mapping[str, int]) -> list[int]:
    """The listed classes as sorted indices."""
    given = config.only_classes
    words = read_lines(given, "only_classes") if isinstance(given, str) else list(given or [])
    known = {name: index for index, name in enumerate(class_names)}
    known = {**{str(key): index for key, index in keys.items()}, **known}
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        what = f"no class {unknown[0]!r}{nearest(unknown[0], list(known))}" if unknown else "is empty"
        raise SourceError(f"source.only_classes: {what} ({config.path} has {len(class_names)} classes)")
    return sorted({known[word] for word in words})


def _reason(place: int, given: Sequence[Any] | None) -> str:
    value: Any = given[place] if given is not None else None
    value = value.as_py() if hasattr(value, "as_py") else value
    if value is None or value == "" or value == -1:
        return f"{UNLABELED} ({value!r})" if value is not None else f"{UNLABELED} (null)"
    return f"the label {value!r} is not among the classes"
