"""Commands and their options, from the fields and docstrings of frozen dataclasses; `parser.py` reads their values."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import docstring_parser

from hf_relabel.stages.settings import is_read

S = TypeVar("S")

MISSING = dataclasses.MISSING


def positional(metavar: str) -> Any:
    """Return a dataclass field that is given by its place on the command line, and is required."""
    return dataclasses.field(metadata={"metavar": metavar, "positional": True})


def option(default: Any, metavar: str) -> Any:
    """Return a dataclass field whose value is called `metavar` in the help."""
    return dataclasses.field(default=default, metadata={"metavar": metavar})


@dataclass(frozen=True)
class Command(Generic[S]):
    """A command of the command line.

    Args:
        name: What the user types, such as `publish` or `export coco`.
        summary: One line for the overview.
        settings: Frozen dataclass with the command's settings; nested dataclasses are sections.
        run: Carries the command out; returns the exit status.
        description: Text above the options in the help.
        dotted: Options carry their section's name (`--propose.tau`); otherwise only the field's (`--batch-size`).
        reads: Keys or sections that the command reads, the only ones in its help; None is all.
        common: Keys to list first in the help.
    """

    name: str
    summary: str
    settings: type[S]
    run: Callable[[S], int]
    description: str = ""
    dotted: bool = False
    reads: tuple[str, ...] | None = None
    common: tuple[str, ...] = ()

    def reads_key(self, key: str) -> bool:
        """Whether a setting has an effect on this command."""
        return self.reads is None or is_read(key, self.reads)


@dataclass(frozen=True)
class Option:
    """One setting of a command.

    Args:
        key: Its name in YAML, such as `propose.tau` or `batch_size`.
        flag: Its name on the command line, such as `--propose.tau` or `--batch-size`.
        path: The fields that lead to it from the command's dataclass.
        type: Annotation of the field.
        default: Default of the field; `MISSING` where the setting is required.
        help: Its entry in the docstring of its dataclass, on one line.
        group: Heading in the help: first line of that docstring.
        metavar: What stands for its value in the help.
        positional: Given by its place on the command line.
    """

    key: str
    flag: str
    path: tuple[str, ...]
    type: Any
    default: Any
    help: str
    group: str
    metavar: str
    positional: bool

    @property
    def shown(self) -> str:
        """How messages call it."""
        return self.metavar if self.positional else self.flag

    @property
    def is_switch(self) -> bool:
        """Whether it may be given without a value."""
        return self.type is bool


def options_of(command: Command[Any]) -> list[Option]:
    """List all settings of a command, in the order of the fields."""
    return list(_walk(command.settings, (), command.dotted))


def _walk(settings: type, path: tuple[str, ...], dotted: bool) -> Iterator[Option]:
    helps: dict[str, tuple[str, str]] = {}  # of each field: heading of the class that has it, and help
    for base in reversed(settings.__mro__):
        if dataclasses.is_dataclass(base):
            heading = (base.__doc__ or "").split("\n")[0].rstrip(".")
            entries = docstring_parser.parse(base.__doc__ or "").params
            helps |= {entry.arg_name: (heading, " ".join((entry.description or "").split())) for entry in entries}
    for field in dataclasses.fields(settings):
        here = (*path, field.name)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            inner = _walk(field.type, here, dotted)
            # A section may start from other defaults than its class has.
            start = field.default_factory() if field.default_factory is not MISSING else None
            for item in inner:
                default = item.default if start is None else _get(start, item.path[len(here) :])
                yield dataclasses.replace(item, default=default)
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield Option(
            key=".".join(here) if dotted else field.name,
            flag="--" + (".".join(here) if dotted else field.name.replace("_", "-")),
            path=here,
            type=field.type,
            default=default,
            help=helps[field.name][1],
            group=helps[field.name][0],
            metavar=field.metadata.get("metavar") or _metavar(field.type),
            positional=field.metadata.get("positional", False),
        )


def _get(tree: Any, path: Sequence[str]) -> Any:
    for name in path:
        tree = getattr(tree, name)
    return tree


def alternatives(annotation: Any) -> list[Any]:
    """Return `[X, None]` for `X | None`, else the annotation alone."""
    return list(typing.get_args(annotation)) if isinstance(annotation, types.UnionType) else [annotation]


def is_list(item: Option) -> bool:
    return typing.get_origin(item.type) in (list, tuple)


def expected(annotation: Any) -> str:
    """Describe which values a type accepts."""
    words = []
    for kind in alternatives(annotation):
        if typing.get_origin(kind) is Literal:
            words.append(f"one of {', '.join(map(str, typing.get_args(kind)))}")
        elif typing.get_origin(kind) in (list, tuple):
            words.append("a list")
        else:
            names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
            words.append(names.get(kind, "text"))
    return " or ".join(words)


def _metavar(annotation: Any) -> str:
    kind = alternatives(annotation)[0]
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return {int: "N", float: "X", bool: "{true,false}"}.get(kind, "TEXT")
