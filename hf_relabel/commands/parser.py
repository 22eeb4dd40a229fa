"""One parser for every command: a frozen dataclass becomes options, and a YAML file may hold any of them.

A command's settings are the fields of its dataclass; types, defaults and help come from the fields and the docstrings.
The stage commands name settings by section (`--backbone.image_size 448`), all others by the field alone
(`--batch-size 32`). Values are checked by jsonargparse against the field's type.
"""

import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hf_relabel.commands.options import MISSING, Command, Option, S, alternatives, expected, is_list, options_of
from hf_relabel.config.settings_file import read_yaml
from hf_relabel.errors import UsageError

if typing.TYPE_CHECKING:
    import jsonargparse

MAX_NUMBER = 2**32 - 1
"""Largest whole number of a setting, and largest seed of numpy."""


def parse(command: Command[S], arguments: Sequence[str]) -> S:
    """Read a command's settings from its arguments and the YAML files they name; arguments override files.

    Raises:
        UsageError: An unknown key (with the nearest valid one), a value of the wrong type or out of range, a missing
            argument, an unreadable file.
    """
    options = {item.key: item for item in options_of(command)}
    before, after = list(arguments), []
    if "--" in before:  # another command, whose arguments are taken as they are
        before, after = before[: before.index("--")], before[before.index("--") + 1 :]
    files, assignments = _split(command, before, options)
    parser = _value_parser(options)
    values: dict[str, Any] = {}
    if after:
        place = next((item for item in options.values() if item.positional and is_list(item)), None)
        if place is None:
            raise UsageError(f"{command.name}: unexpected argument '--'; see --help")
        values[place.key] = after
    for file in files:
        from_file = _read_file(file, options)
        _checked(parser.parse_object, _nested(from_file), options, f"--config {file}: ")
        values |= from_file
    # A list on the command line replaces that of a file; one option given several times makes one list.
    replaced = {key for key, _ in assignments if is_list(options[key])}
    kept = {**values, **{key: [] for key in replaced}}
    namespace = _checked(parser.parse_object, _nested(kept), options, "")
    texts = [f"--{key}{'+' if is_list(options[key]) else ''}={text}" for key, text in assignments]
    namespace = _checked(lambda texts: parser.parse_args(texts, namespace=namespace), texts, options, "")
    given = {**values, **dict(assignments)}
    for item in options.values():
        if item.default is MISSING and given.get(item.key) is None:
            raise UsageError(f"{command.name}: {item.shown} is missing; see hf-relabel {command.name} --help")
    if unread := [options[key].flag for key, _ in assignments if not command.reads_key(key)]:
        print(f"hf-relabel: note: `{command.name}` does not read {', '.join(unread)}", file=sys.stderr)
    _check_values(namespace, options)
    built = _build(command.settings, {item.path: namespace[item.key] for item in options.values()})
    return typing.cast(S, built)


def parse_tree(command: Command[S], tree: Mapping[str, Any]) -> S:
    """Read a command's settings from nested dictionaries, as a YAML file would hold them.

    Raises:
        UsageError: An unknown key (with the nearest valid one), a value of the wrong type or out of range, a missing
            setting.
    """
    options = {item.key: item for item in options_of(command)}
    values = _values_of(dict(tree), "config", options)
    namespace = _checked(_value_parser(options).parse_object, _nested(values), options, "config: ")
    for item in options.values():
        if item.default is MISSING and values.get(item.key) is None:
            raise UsageError(f"{command.name}: {item.key} is missing")
    _check_values(namespace, options)
    built = _build(command.settings, {item.path: namespace[item.key] for item in options.values()})
    return typing.cast(S, built)


def nearest(word: str, choices: Sequence[str]) -> str:
    """Word a suggestion of the choice most like `word`; empty where none is alike."""
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""


def _split(
    command: Command[Any], arguments: Sequence[str], options: dict[str, Option]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Separate the arguments into configuration files, and pairs of key and text in the order given."""
    files: list[str] = []
    assignments: list[tuple[str, str]] = []
    places = [item for item in options.values() if item.positional]
    rest = list(reversed(arguments))  # a stack: the next argument is the last
    while rest:
        argument = rest.pop()
        if not argument.startswith("-") or argument == "-":
            if not places:
                raise UsageError(f"{command.name}: unexpected argument {argument!r}; see --help")
            place = places[0] if is_list(places[0]) else places.pop(0)  # a list takes all that follow
            assignments.append((place.key, argument))
            continue
        flag, has_value, text = argument.partition("=")
        key, negated = _key_of(flag, command, options)
        if negated:
            text = "false"
        elif not has_value and key in options and options[key].is_switch:
            text = rest.pop() if rest and rest[-1] in ("true", "false") else "true"
        elif not has_value:
            if not rest or rest[-1].startswith("--"):
                raise UsageError(f"{flag}: its value is missing")
            text = rest.pop()
        if key == "config":
            files.append(text)
        else:
            assignments.append((key, text))
    return files, assignments


def _key_of(flag: str, command: Command[Any], options: dict[str, Option]) -> tuple[str, bool]:
    """Return the key of a flag, and whether it is the flag's negation (`--no-flip`)."""
    key = flag[2:].replace("-", "_") if flag.startswith("--") else ""
    if key == "config" or key in options:
        return key, False
    positive = key.removeprefix("no_")
    if positive != key and positive in options and options[positive].is_switch:
        return positive, True
    if inside := [item.flag for item in options.values() if item.key.startswith(f"{key}.")]:
        raise UsageError(f"{flag}: is a section; set one of its keys, such as {inside[0]}")
    flags = ["--config", *(item.flag for item in options.values() if not item.positional)]
    raise UsageError(f"{flag}: no such key{nearest(flag, flags)}; see hf-relabel {command.name} --help")


def _read_file(file: str, options: dict[str, Option]) -> dict[str, Any]:
    """Return the values of a YAML file by key.

    Raises:
        UsageError: The file cannot be read, is empty, or has a key that the command does not know.
    """
    where = f"--config {file}"
    tree = read_yaml(file, where)
    if tree is None:
        raise UsageError(f"{where}: holds no settings; write those that differ, or leave out --config")
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: must hold settings such as `{next(iter(options))}:`, got {type(tree).__name__}")
    return _values_of(tree, where, options)


def _check_values(namespace: "jsonargparse.Namespace", options: dict[str, Option]) -> None:
    """Refuse what jsonargparse accepts for a type but no setting can be: null, infinite and huge numbers.

    Raises:
        UsageError: The first such value.
    """
    for item in options.values():
        value = namespace[item.key]
        name = item.key if "." in item.key else item.shown
        kinds = alternatives(item.type)
        if value is None and types.NoneType not in kinds and item.default not in (None, MISSING):
            raise UsageError(f"{name}: must be {expected(item.type)}, got null")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name}: must be a finite number, got {value}")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise UsageError(f"{name}: must be at most {MAX_NUMBER}")
        # numpy and scikit-learn take no negative seeds.
        if item.path[-1] == "seed" and value is not None and value < 0:
            raise UsageError(f"{name}: must be 0 or more, got {value}")


def _values_of(tree: dict[Any, Any], where: str, options: dict[str, Option]) -> dict[str, Any]:
    """Return the values of nested dictionaries by key."""
    sections = {".".join(key.split(".")[:end]) for key in options for end in range(1, key.count(".") + 1)}
    return dict(_leaves(tree, where, options, sections, ""))


def _leaves(
    tree: dict[Any, Any], where: str, options: dict[str, Option], sections: set[str], prefix: str
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = prefix + str(name).replace("-", "_")
        if key in sections and isinstance(value, dict):
            yield from _leaves(value, where, options, sections, f"{key}.")
        elif key in sections:
            raise UsageError(f"{where}: {key}: is a section and must hold its own keys, got {value!r}")
        elif key in options:
            yield key, value
        else:
            raise UsageError(f"{where}: no key {prefix + str(name)!r}{nearest(key, [*options, *sections])}")


def _value_parser(options: dict[str, Option]) -> "jsonargparse.ArgumentParser":
    """Return the parser that checks each value against the type of its field."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    for item in options.values():
        default = None if item.default is MISSING else item.default
        parser.add_argument(f"--{item.key}", type=item.type, default=default)
    return parser


def _checked(
    parse: Callable[[Any], "jsonargparse.Namespace"], values: Any, options: dict[str, Option], where: str
) -> "jsonargparse.Namespace":
    """Return the parsed values, or raise a UsageError that names the setting and what it accepts."""
    import jsonargparse

    try:
        return parse(values)
    except (jsonargparse.ArgumentError, TypeError, ValueError, OverflowError) as error:
        message = _one_line(error)
        if isinstance(error, OverflowError):
            message = "a number is too large"
        key = re.search(r'Parser key "([^"]+)"', message)
        value = re.search(r"(?:Got|Given) value: (.*)$", message)
        if key is None or value is None or key[1] not in options:
            raise UsageError(f"{where}{message}") from error
        item = options[key[1]]
        name = item.key if where or "." in item.key else item.flag
        raise UsageError(f"{where}{name}: must be {expected(item.type)}, got {value[1]!r}") from error


def _build(settings: type, values: dict[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> Any:
    """Return the dataclass of the values below `path`; it may refuse them with a UsageError."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        here = (*path, field.name)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            fields[field.name] = _build(field.type, values, here)
        else:
            fields[field.name] = values[here]
    return settings(**fields)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as nested dictionaries."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return tree


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
