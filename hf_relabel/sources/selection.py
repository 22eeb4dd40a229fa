"""Which images of a source are used: a list of ids, a list of classes, only labeled ones, the first few."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.config import SourceConfig
from hf_relabel.config.checks import regular_file
from hf_relabel.errors import SourceError
from hf_relabel.schema import NO_LABEL, Excluded
from hf_relabel.sources.classes import nearest

NO_LABELS = (None, "", -1, "-1")
"""Values in a column of labels that stand for no label, "-1" also among names."""

UNLABELED = "no label"


class Selector:
    """Chooses the images that the configuration asks for, some at a time.

    Args:
        config: The source's settings.
        class_names: Names of the classes.
        keys: Class index of each key (folder name or stored label), in which classes can be named too.

    Raises:
        SourceError: A listed class does not exist, or a list cannot be read.
    """

    def __init__(self, config: SourceConfig, class_names: list[str], keys: Mapping[str, int]):
        self.config = config
        self.class_names = class_names
        """The classes of the chosen images."""
        self.excluded: list[Excluded] = []
        """The images that have no usable label."""
        self._all_class_names = class_names
        self._new_index: np.ndarray | None = None
        self._listed: pa.Array | None = None
        self._smallest_id: str | None = None
        self._listed_images = 0
        if config.only_ids is not None:
            self._listed = pa.array(sorted(set(read_lines(config.only_ids, "only_ids"))))
            self._found = np.zeros(len(self._listed), bool)
        if config.only_classes is not None:
            wanted = _classes(config, class_names, keys)
            self.class_names = [class_names[index] for index in wanted]
            self._new_index = np.full(len(class_names) + 1, NO_LABEL, np.int32)
            self._new_index[wanted] = np.arange(len(wanted), dtype=np.int32)

    def choose(
        self, image_ids: pa.Array, labels: np.ndarray, given: pa.ChunkedArray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose among some images.

        Args:
            image_ids: Their ids [M].
            labels: Class index of each, int32 [M]; -1 where the label is missing or unknown.
            given: What the dataset has as the label of each image, for messages.

        Returns:
            Whether each is used, bool [M], and its class among `class_names`, int32 [M].
        """
        is_used = np.ones(len(image_ids), bool)
        if self._listed is not None:
            places = pc.index_in(image_ids, value_set=self._listed)
            is_used = places.is_valid().to_numpy(zero_copy_only=False).copy()
            self._found[places.drop_null().to_numpy()] = True
            smallest = pc.min(image_ids).as_py()
            self._smallest_id = smallest if self._smallest_id is None else min(smallest, self._smallest_id)
        self._listed_images += int(is_used.sum())
        if self.config.labeled and self.config.unlabeled != "keep":
            for place in np.flatnonzero(is_used & (labels < 0)).tolist():
                self.excluded.append(Excluded(image_ids[place].as_py(), _reason(place, given)))
            is_used &= labels >= 0
        if self._new_index is not None:
            labels = self._new_index[labels]
            is_used &= labels >= 0
        return is_used, labels

    def check(self) -> None:
        """Check that all listed ids were found, and whether unlabeled images are allowed, when all have been seen.

        Raises:
            SourceError: A listed id does not exist, or images have no usable label.
        """
        config = self.config
        if self._listed is not None and not self._found.all():
            unknown = self._listed.filter(pa.array(~self._found))
            raise SourceError(
                f"{config.only_ids}: {len(unknown)} of {len(self._listed)} ids are not in {config.path}, such as "
                f"{unknown[0].as_py()!r}; an id there is {self._smallest_id!r}"
            )
        if self.excluded and config.unlabeled == "refuse":
            first, reason, _ = self.excluded[0]
            raise SourceError(
                f"{config.path}: {len(self.excluded)} of {self._listed_images} images cannot be used, such as "
                f"{first!r}: {reason} (there are {len(self._all_class_names)} classes); fix the labels, set "
                "--source.class_names, or leave these images out with --source.unlabeled skip"
            )


def read_lines(path: str, setting: str) -> list[str]:
    """Read the lines of a text file, without blank ones.

    Raises:
        SourceError: The file cannot be read, or has no lines.
    """
    try:
        lines = [line.strip() for line in regular_file(Path(path)).read_text(encoding="utf-8-sig").split("\n")]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check --source.{setting}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not any(lines):
        raise SourceError(f"{path}: has no lines; --source.{setting} needs one per line")
    return [line for line in lines if line]


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


def _reason(place: int, given: pa.ChunkedArray | None) -> str:
    value = given[place].as_py() if given is not None else None
    if value in NO_LABELS:
        return f"{UNLABELED} ({value!r})" if value is not None else f"{UNLABELED} (null)"
    return f"the label {value!r} is not among the classes"
