"""Class names: the classes a dataset knows by folder or value, and what they are called."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hf_relabel.errors import SourceError


@dataclass(frozen=True)
class ClassList:
    """The C classes in the order of their index.

    Args:
        origin: Where the list comes from, for messages.
        names: What the classes are called, each once.
        keys: What the dataset calls them: folder names or stored labels; None where it was not said.
    """

    origin: str
    names: list[str]
    keys: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise SourceError(f"{self.origin}: names no class")
        for what, words in (("class name", self.names), ("class key", self.keys or [])):
            if len(set(words)) < len(words):
                twice = next(word for place, word in enumerate(words) if word in words[:place])
                raise SourceError(f"{self.origin}: the {what} {twice!r} is there twice; each must be unique")

    def indices(self, keys: Sequence[str], origin: str) -> dict[str, int]:
        """The index of each of a dataset's own class keys, which come in the dataset's class order.

        They are looked up among the list's keys; a list without keys is searched for them as names or, where it knows
        none of them, taken to name them in their order.

        Args:
            keys: Folder names or stored labels.
            origin: The dataset, for messages.

        Raises:
            SourceError: A key is not in the list.
        """
        known = {key: index for index, key in enumerate(self.keys or self.names)}
        missing = [key for key in keys if key not in known]
        if not missing:
            return {key: known[key] for key in keys}
        if self.keys is None and len(missing) == len(keys) == len(self.names):
            return {key: index for index, key in enumerate(keys)}
        raise SourceError(
            f"{origin}: the class {missing[0]!r}{nearest(missing[0], list(known))} is not among the {len(known)} "
            f"classes of {self.origin} ({len(missing)} of {len(keys)} are not); add it there"
        )


def read_class_list(path: str) -> ClassList:
    """A .tsv or .txt file of `key<TAB>name` lines, or of one name a line; the first line is class 0.

    Raises:
        SourceError: It cannot be read, or its lines are not of one of these forms.
    """
    if Path(path).suffix.lower() not in (".tsv", ".txt"):
        raise SourceError(f"{path}: the file of class names must end in .tsv or .txt")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); see --source.class_names") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text ({error.reason})") from error
    return _parse(path, text)


def imagenet_classes() -> ClassList:
    """The 1000 classes of ImageNet-1k: wnid and name, in the order of the wnids, which is the usual class index."""
    text = resources.files("hf_relabel.sources").joinpath("imagenet_1k.tsv").read_text(encoding="utf-8")
    return _parse("ImageNet-1k", text)


def _parse(origin: str, text: str) -> ClassList:
    lines = text.rstrip().split("\n")
    rows = [[cell.strip() for cell in line.rstrip("\r").split("\t")] for line in lines]
    columns = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != columns or columns > 2 or not all(row):
            raise SourceError(
                f"{origin}, line {number}: {lines[number - 1]!r} is neither `folder<TAB>name` nor one name, as line 1; "
                "all lines must be of the same form"
            )
    names = [row[-1] for row in rows]
    return ClassList(origin, names, [row[0] for row in rows] if columns == 2 else None)


def nearest(word: str, choices: Sequence[str]) -> str:
    """` (nearest: ...)` for messages, empty where nothing is near."""
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (nearest: {found[0]!r})" if found else ""
