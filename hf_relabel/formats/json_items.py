"""Read large JSON files item by item: the elements of top-level lists, each with its position in the file.

The standard library's decoder parses each item; this module only splits the file. COCO files with millions of masks do
not fit in memory, and with its position an item can be read again later.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import FormatError

CHUNK = 1 << 20
"""Minimum number of bytes per read; longer items are read with larger reads."""

MAX_ITEM_BYTES = 64 << 20
"""Size above which an unfinished item is considered damaged."""

_BLANK = " \t\n\r"
_BEHIND_A_NUMBER = re.compile(r"[ \t\n\r,\]}]")
_WHOLE = (str, dict, list, bool, type(None))  # values with an explicit end
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
_BYTE_ORDER_MARK = "\xef\xbb\xbf"  # of UTF-8, with each byte read as one character


@dataclass(frozen=True)
class Item:
    """One value in a file.

    Args:
        key: Key in the top-level object of the value, or of the list that contains it; None if the file is a list.
        value: The parsed value.
        start: Position of its first byte.
        stop: Position after its last byte.
        in_list: Whether it is an element of the list `key`.
    """

    key: str | None
    value: Any
    start: int
    stop: int
    in_list: bool = True


def read_items(path: Path) -> Iterator[Item]:
    """Iterate over the items of a JSON file: elements of the top-level list, or of the lists in the top-level object.

    Other values in the top-level object are items as well, and so is an empty list.

    Raises:
        FormatError: The file cannot be read or is damaged; the message names the line.
    """
    try:
        with open(regular_file(path), "rb") as file:
            yield from _items(_Text(path, file))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}); give a JSON file") from error


def line_of(path: Path, offset: int) -> int:
    """Line number of a byte in a file, counted from 1."""
    line = 1
    with open(path, "rb") as file:
        while offset > 0 and (block := file.read(min(CHUNK, offset))):
            line += block.count(b"\n")
            offset -= len(block)
    return line


def _items(text: "_Text") -> Iterator[Item]:
    if text.peek() == "[":
        yield from _elements(text, None)
    else:
        text.take("{")
        keys: set[str] = set()
        while text.peek() != "}":
            key = text.value(None).value
            if not isinstance(key, str):
                raise text.damaged("a key is not a string")
            if key in keys:
                raise text.damaged(f"the key {key!a} occurs twice")
            keys.add(key)
            text.take(":")
            if text.peek() == "[":
                yield from _elements(text, key)
            else:
                yield text.value(key)
            if text.peek() != "}":
                text.take(",")
                if text.peek() == "}":
                    raise text.damaged("a comma before the end")
        text.take("}")
    if text.peek():
        raise text.damaged("text after the end")


def _elements(text: "_Text", key: str | None) -> Iterator[Item]:
    start = text.base + text.place
    text.take("[")
    if text.peek() == "]":
        yield Item(key, [], start, text.base + text.place + 1, in_list=False)
    while text.peek() != "]":
        yield text.value(key, in_list=True)
        if text.peek() != "]":
            text.take(",")
            if text.peek() == "]":
                raise text.damaged("a comma before the end of a list")
    text.take("]")


class _Text:
    """A moving window over a file. Each byte is one character, so positions in the window are byte positions."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path = path
        self.file = file
        self.decoder = json.JSONDecoder()
        self.text = ""
        self.base = 0  # position of text[0] in the file
        self.place = 0  # position in text of the next character
        self.ended = False
        while len(self.text) < len(_BYTE_ORDER_MARK) and not self.ended:
            self._grow()
        if self.text.startswith(_BYTE_ORDER_MARK):
            self.place = len(_BYTE_ORDER_MARK)

    def peek(self) -> str:
        """Return the next character that is not blank, or an empty string at the end of the file."""
        while True:
            rest = len(self.text)
            while self.place < rest and self.text[self.place] in _BLANK:
                self.place += 1
            if self.place < rest:
                return self.text[self.place]
            if self.ended:
                return ""
            self._grow()

    def take(self, character: str) -> None:
        """Skip the next character, which must be `character`."""
        found = self.peek()
        if found != character:
            raise self.damaged(f"{character!r} expected, " + (f"found {found!r}" if found else "but the file ends"))
        self.place += 1

    def value(self, key: str | None, in_list: bool = False) -> Item:
        """Read the next value."""
        if not self.peek():
            raise self.damaged("the file ends where a value is expected")
        while True:
            try:
                value, stop = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.place > MAX_ITEM_BYTES:
                    raise self.damaged(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.damaged("nested too deeply") from error
            except ValueError as error:  # a whole number of more than 4,300 digits
                raise self.damaged(str(error).partition(";")[0]) from error
            else:
                if self.ended or isinstance(value, _WHOLE) or _BEHIND_A_NUMBER.search(self.text, stop):
                    break  # otherwise it is a number that may continue after the window
            self._grow()
        raw = self.text[self.place : stop]
        if not raw.isascii():
            try:
                value = json.loads(raw.encode("latin-1").decode("utf-8"))
            except UnicodeDecodeError as error:
                raise self.damaged("not UTF-8 text", self.place + error.start) from error
        if _SURROGATE.search(raw):
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise self.damaged("half of a character, \\ud800 to \\udfff, without the other half") from error
        item = Item(key, value, self.base + self.place, self.base + stop, in_list)
        self.place = stop
        return item

    def damaged(self, reason: str, place: int | None = None) -> FormatError:
        """Make the error for damage at a position in the window, by default the current one."""
        line = line_of(self.path, self.base + (self.place if place is None else place))
        return FormatError(f"{self.path}, line {line}: not valid JSON ({reason}); fix the file or download it again")

    def _grow(self) -> None:
        rest = self.text[self.place :]
        block = self.file.read(max(CHUNK, len(rest)))
        self.base += self.place
        self.text, self.place = rest + block.decode("latin-1"), 0
        self.ended = not block
