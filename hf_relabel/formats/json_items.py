"""Large JSON files item by item: the elements of top-level lists one at a time, each with its place in the file.

The standard library's decoder parses every item; only the file is cut here. COCO files of millions of masks do not fit
in memory, and a place in the file lets an item be read again when its image comes up.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hf_relabel.errors import FormatError

CHUNK = 1 << 20
"""Bytes read at once, or as many as an unfinished item has, where these are more."""

LARGEST_ITEM = 64 << 20
"""Bytes past which an item that has not ended is taken for damage."""

_BLANK = " \t\n\r"
_BEHIND_A_NUMBER = re.compile(r"[ \t\n\r,\]}]")
_WHOLE = (str, dict, list, bool, type(None))  # values that end by themselves
_BYTE_ORDER_MARK = "\xef\xbb\xbf"  # UTF-8's, read as one character a byte


@dataclass(frozen=True)
class Item:
    """One value of a file.

    Args:
        key: Its key, or that of the list it is an element of, in the top-level object; None where the file is a list.
        value: The value, parsed.
        start: Its first byte in the file.
        stop: The byte behind its last.
        in_list: Whether it is an element of the list `key`.
    """

    key: str | None
    value: Any
    start: int
    stop: int
    in_list: bool = True


def read_items(path: Path) -> Iterator[Item]:
    """The items of a JSON file in order: elements of the top-level list, or of the top-level object's lists.

    Values of the top-level object that are no lists are items too.

    Raises:
        FormatError: The file cannot be read or is damaged; with the line.
    """
    try:
        with open(path, "rb") as file:
            yield from _items(_Text(path, file))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}); name a JSON file") from error


def line_of(path: Path, offset: int) -> int:
    """The line of a byte of a file, from 1."""
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
        while text.peek() != "}":
            key = text.value(None).value
            if not isinstance(key, str):
                raise text.damaged("a key is not a string")
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
        raise text.damaged("text behind the end")


def _elements(text: "_Text", key: str | None) -> Iterator[Item]:
    text.take("[")
    while text.peek() != "]":
        yield text.value(key, in_list=True)
        if text.peek() != "]":
            text.take(",")
            if text.peek() == "]":
                raise text.damaged("a comma before the end of a list")
    text.take("]")


class _Text:
    """A window on a file that grows forwards. A character is a byte, so that places in the window are places there."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path = path
        self.file = file
        self.decoder = json.JSONDecoder()
        self.text = ""
        self.base = 0  # byte of the file that text[0] is
        self.place = 0  # what comes before it in text has been taken
        self.ended = False
        while len(self.text) < len(_BYTE_ORDER_MARK) and not self.ended:
            self._grow()
        if self.text.startswith(_BYTE_ORDER_MARK):
            self.place = len(_BYTE_ORDER_MARK)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
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
        """Pass over the next character, which must be this one."""
        found = self.peek()
        if found != character:
            raise self.damaged(f"{character!r} expected, " + (f"found {found!r}" if found else "but the file ends"))
        self.place += 1

    def value(self, key: str | None, in_list: bool = False) -> Item:
        """The next value."""
        if not self.peek():
            raise self.damaged("the file ends where a value is expected")
        while True:
            try:
                value, stop = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.place > LARGEST_ITEM:
                    raise self.damaged(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.damaged("nested too deeply") from error
            else:
                if self.ended or isinstance(value, _WHOLE) or _BEHIND_A_NUMBER.search(self.text, stop):
                    break  # else it is a number, and may go on behind the window
            self._grow()
        raw = self.text[self.place : stop]
        if not raw.isascii():
            try:
                value = json.loads(raw.encode("latin-1").decode("utf-8"))
            except UnicodeDecodeError as error:
                raise self.damaged("not UTF-8 text", self.place + error.start) from error
        item = Item(key, value, self.base + self.place, self.base + stop, in_list)
        self.place = stop
        return item

    def damaged(self, reason: str, place: int | None = None) -> FormatError:
        """The error to raise for damage at a place of the window, by default the present one."""
        line = line_of(self.path, self.base + (self.place if place is None else place))
        return FormatError(f"{self.path}, line {line}: not valid JSON ({reason}); mend or fetch the file again")

    def _grow(self) -> None:
        rest = self.text[self.place :]
        block = self.file.read(max(CHUNK, len(rest)))
        self.base += self.place
        self.text, self.place = rest + block.decode("latin-1"), 0
        self.ended = not block
