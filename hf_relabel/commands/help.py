"""The help of a command: the settings it reads, in groups, the common ones first."""

import shutil
import textwrap
from typing import Any

from hf_relabel.commands.options import MISSING, Command, Option, options_of

NAME_WIDTH = 26
"""Columns for an option's name; longer names have a line of their own."""

CONFIG_HELP = "YAML file with any of these settings; options on the command line override it."
CONFIG_HELP_OF_STAGES = (
    "YAML file with the settings that differ from the defaults. It may hold all sections, such as a run's "
    "config.yaml: this command reads those below and ignores the others. Options override it."
)


def help_of(command: Command[Any]) -> str:
    """Return the help text of a command."""
    items = [item for item in options_of(command) if command.reads_key(item.key)]
    places = [item for item in items if item.positional]
    common = sorted((item for item in items if item.key in command.common), key=_rank_in(command.common))
    groups: dict[str, list[Option]] = {}
    for item in items:
        if not item.positional and item.key not in command.common:
            groups.setdefault(item.group, []).append(item)
    other = [item.metavar for item in places if item.metavar.startswith("--")]  # another command, which comes last
    usage = ["usage: hf-relabel", command.name, *(item.metavar for item in places if item.metavar not in other)]
    usage.append("[--config FILE.yaml]")
    usage += [f"{item.flag} {item.metavar}" for item in items if item.default is MISSING and not item.positional]
    usage.append("[--section.key VALUE ...]" if command.dotted else "[options]")
    usage += other
    lines = [" ".join(usage), "", *_paragraphs(command.description or command.summary)]
    if places:
        lines += ["", "Arguments:", *(line for item in places for line in _entry(item.metavar, item.help))]
    lines += ["", "Common settings:" if common else "Options:"]
    lines += _entry("--config FILE.yaml", CONFIG_HELP_OF_STAGES if command.dotted else CONFIG_HELP)
    lines += [line for item in common for line in _option(item)]
    for heading, group in groups.items():
        lines += ["", f"{heading}:", *(line for item in group for line in _option(item))]
    return "\n".join(lines)


def _rank_in(keys: tuple[str, ...]) -> Any:
    return lambda item: keys.index(item.key)


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 110)


def _paragraphs(text: str) -> list[str]:
    """Return the text wrapped to the terminal; indented lines (commands) stay as they are."""
    lines: list[str] = []
    for paragraph in textwrap.dedent(text).strip().split("\n\n"):
        is_code = paragraph.startswith((" ", "hf-relabel ", "accelerate "))
        lines += [*(paragraph.split("\n") if is_code else textwrap.wrap(paragraph, _width())), ""]
    return lines[:-1]


def _option(item: Option) -> list[str]:
    name = f"{item.flag} {item.metavar}"
    if item.is_switch:
        value = "false" if item.default is True else "true"
        plain = f"{item.flag}, --no-{item.flag[2:]}" if item.default is True else item.flag
        name = f"{item.flag} {value}" if "." in item.flag else plain
    return _entry(name, f"{item.help} {_default(item)}".strip())


def _default(item: Option) -> str:
    if item.default is MISSING:
        return "(required)"
    if item.is_switch:
        return f"(default: {'true' if item.default else 'false'})"
    return "" if item.default in (None, "", []) else f"(default: {item.default})"


def _entry(name: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, max(_width() - NAME_WIDTH - 4, 30), break_on_hyphens=False) or [""]
    indented = [f"{'':{NAME_WIDTH + 4}}{line}" for line in wrapped]
    if len(name) > NAME_WIDTH:
        return [f"  {name}", *indented]
    return [f"  {name:<{NAME_WIDTH}}  {wrapped[0]}", *indented[1:]]
