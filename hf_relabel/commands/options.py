"""Command-line options made from a settings dataclass, and a YAML file that may hold any of them."""

import argparse
import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal

import docstring_parser
import yaml

from hf_relabel.errors import UsageError


def add_settings(parser: argparse.ArgumentParser, settings: type, title: str) -> None:
    """Declare an option for each field of a dataclass, with the help that its docstring gives.

    Args:
        parser: Receives the options.
        settings: A dataclass whose fields are strings, numbers, booleans, literals or None.
        title: Heading of the options in the help.
    """
    group = parser.add_argument_group(title)
    helps: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        if dataclasses.is_dataclass(base):
            helps |= {p.arg_name: " ".join(p.description.split()) for p in docstring_parser.parse(base.__doc__).params}
    for field in dataclasses.fields(settings):
        flag = "--" + field.name.replace("_", "-")
        default = "" if field.default in (None, "") else f" (default: {field.default})"
        options: dict[str, Any] = {"default": field.default, "help": helps[field.name].replace("%", "%%") + default}
        kind = _inner_type(field.type)
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is Literal:
            options["choices"] = typing.get_args(kind)
        else:
            options["type"] = kind
        group.add_argument(flag, **options)


def settings_from(settings: type, args: argparse.Namespace) -> Any:
    """The dataclass with the values of parsed arguments; it may refuse them with a UsageError."""
    return settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(settings)})


def _inner_type(annotation: Any) -> Any:
    """`X` of `X | None`, else the annotation itself."""
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation


class ConfigFile(argparse.Action):
    """`--config FILE.yaml`: sets any other option by its name; options that follow it override the file's."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        actions = {action.dest: action for action in parser._actions if action.dest not in ("help", self.dest)}
        for key, value in _read_yaml(values).items():
            name = str(key).replace("-", "_")
            if name not in actions:
                near = difflib.get_close_matches(name, actions, n=1)
                raise UsageError(f"{values}: no setting {key!r}{f', did you mean {near[0]!r}?' if near else ''}")
            setattr(namespace, name, _converted(actions[name], value, f"{values}: {key}"))


def _converted(action: argparse.Action, value: Any, where: str) -> Any:
    """A YAML value as the option would have it."""
    if isinstance(action, argparse.BooleanOptionalAction) or action.const is True:
        if not isinstance(value, bool):
            raise UsageError(f"{where}: must be true or false, got {value!r}")
        return value
    if value is None and action.default is None:
        return None
    if action.choices is not None:
        value = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if value not in action.choices:
            raise UsageError(f"{where}: must be one of {', '.join(action.choices)}, got {value!r}")
        return value
    kind = action.type or str
    fits = isinstance(value, int | float) and not isinstance(value, bool) if kind is float else type(value) is kind
    if not fits:
        raise UsageError(f"{where}: must be {kind.__name__}, got {value!r}")
    return kind(value)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: cannot be read ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: must hold settings such as `epochs: 10`, got {type(content).__name__}")
    return content
