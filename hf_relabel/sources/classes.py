"""Class names, and how the keys in a dataset (folder names, stored labels) map to them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hf_relabel.config.checks import is_line, regular_file
from hf_relabel.errors import SourceError


@dataclass(frozen=True)
class ClassList:
    """The C classes in index order.

    Args:
        origin: Where the list comes from, for messages.
        names: Class names, unique.
        keys: What the dataset calls the classes: folder names or stored labels, unique. None if the list has none.
        parents: Of each class the group or other class above it, empty if there is none. None if the list has no such
            column.
    """

    origin: str
    names: list[str]
    keys: list[str] | None = None
    parents: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise SourceError(f"{self.origin}: contains no class names")
        for what, words in (("class name", self.names), ("class key", self.keys or [])):
            if len(set(words)) < len(words):
                repeated = next(word for place, word in enumerate(words) if word in words[:place])
                raise SourceError(f"{self.origin}: the {what} {repeated!r} occurs more than once; make it unique")
            if (odd := next((word for word in words if not is_line(word)), None)) is not None:
                raise SourceError(f"{self.origin}: the {what} {odd!a} is not one line of text; rename it")

    def indices(self, keys: Sequence[str], origin: str) -> dict[str, int]:
        """Map a dataset's class keys to class indices.

        Keys are looked up in the list's own keys. If the list has no keys, they are looked up in its names; if it
        contains none of them and has equally many names, the names are assigned in order.

        Args:
            keys: Folder names or stored labels, in the dataset's class order.
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
            f"classes in {self.origin} ({len(missing)} of {len(keys)} are missing); add it there"
        )


def read_class_list(path: str) -> ClassList:
    """Read a .tsv or .txt file with one `key<TAB>name` or one name per line; the first line is class 0.

    With a header that ends in `parent`, as in `folder<TAB>name<TAB>parent` or `name<TAB>parent`, the last column names
    the parent of each class, for `read_hierarchy`.

    Raises:
        SourceError: The file cannot be read, or a line has another form.
    """
    if Path(path).suffix.lower() not in (".tsv", ".txt"):
        raise SourceError(f"{path}: the file of class names must end in .tsv or .txt")
    try:
        text = regular_file(Path(path)).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check --source.class_names") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    return _parse(path, text)


def imagenet_classes() -> ClassList:
    """The 1000 classes of ImageNet-1k with their wnids as keys, in wnid order, which is the usual class index."""
    text = resources.files("hf_relabel.sources").joinpath("imagenet_1k.tsv").read_text(encoding="utf-8")
    return _parse("ImageNet-1k", text)


def classes_of_keys(origin: str, keys: Sequence[str], ordered: bool = False) -> ClassList:
    """The classes of a dataset that has only keys: folder names, or labels as text.

    Keys that are all wnids are classes of ImageNet-1k; keys that are all numbers are in numeric order.

    Args:
        origin: The dataset, for messages.
        keys: Unique keys; in the order of the class indices if `ordered`.
        ordered: Whether the order of the keys is given.
    """
    imagenet = imagenet_classes()
    if set(keys) <= set(imagenet.keys or []):
        return imagenet
    names = list(keys) if ordered else sorted(keys)
    if not ordered and all(name.isdecimal() and str(int(name)) == name for name in names):
        names.sort(key=int)  # class indices, as in ImageNet-V2: 10 comes after 9
    return ClassList(origin, names, names)


HEADER_WORDS = frozenset(
    ["index", "id", "number", "wnid", "synset", "folder", "key", "class", "label", "name", "class_name", "label_name"]
)
"""Words that a table's header has, and that are not a folder and the name of its class."""


PARENT = "parent"
"""Header of the column with the parents of the classes."""


def has_parents(first_line: str) -> bool:
    """Whether a class list with this first line has a column with the parents of its classes."""
    cells = [cell.strip().lower() for cell in first_line.split("\t")]
    return len(cells) in (2, 3) and cells[-1] == PARENT and set(cells[:-1]) <= HEADER_WORDS


def _parse(origin: str, text: str) -> ClassList:
    lines = text.rstrip("\r\n ").split("\n")
    rows = [[cell.strip() for cell in line.rstrip("\r").split("\t")] for line in lines]
    if has_parents(lines[0]):
        return _with_parents(origin, lines, rows)
    columns = len(rows[0])
    if columns > 1 and {cell.lower() for cell in rows[0]} <= HEADER_WORDS:
        raise SourceError(
            f"{origin}, line 1: {lines[0]!r} is a header; the file must have only lines of the form `folder<TAB>name`, "
            "and the first is class 0 (remove the header and other columns)"
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != columns or columns > 2 or not all(row):
            raise SourceError(
                f"{origin}, line {number}: {lines[number - 1]!r} must be `folder<TAB>name` or one name, in the same "
                "form as line 1"
            )
    names = [row[-1] for row in rows]
    return ClassList(origin, names, [row[0] for row in rows] if columns == 2 else None)


def _with_parents(origin: str, lines: list[str], rows: list[list[str]]) -> ClassList:
    header, *rows = rows
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not all(row[:-1]):
            raise SourceError(
                f"{origin}, line {number}: {lines[number - 1]!r} must have {len(header)} columns like the header; only "
                "the parent may be empty"
            )
    keys = [row[0] for row in rows] if len(header) == 3 else None
    return ClassList(origin, [row[-2] for row in rows], keys, [row[-1] for row in rows])


def nearest(word: str, choices: Sequence[str]) -> str:
    """Return ` (nearest: ...)` for messages, or an empty string if no choice is close."""
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (nearest: {found[0]!r})" if found else ""
