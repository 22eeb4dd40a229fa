"""JSON that may come from anyone: one parser, which raises nothing but ValueError."""

import json
from pathlib import Path
from typing import Any

from hf_relabel.config.checks import regular_file


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is not JSON.
    """
    return parse_json(regular_file(path).read_bytes())


def parse_json(text: str | bytes, *, is_strict: bool = False) -> Any:
    """Parse JSON that may come from anyone: UTF-8, without a key that occurs twice in one object.

    Args:
        text: The text.
        is_strict: Whether NaN and the infinities are refused, which Python writes and JSON does not have.

    Raises:
        ValueError: It is something else, or nested so deeply that no file of ours would be.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant if is_strict else None
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"contains {name}, which is not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers could take different ones of two equal keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!a} occurs twice")
    return values
