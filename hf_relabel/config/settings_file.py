"""Read a YAML file of settings, whatever it contains."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import UsageError

MAX_BYTES = 1_000_000
"""Size of a settings file; the parser needs seconds per megabyte."""

MAX_VALUES = 100_000
"""Values in a settings file, with those that aliases stand for."""


class _Loader(yaml.SafeLoader):
    """PyYAML takes the last of equal keys, and the settings of a section that was begun twice would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dictionary of a mapping whose keys differ."""
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, (key, _) in enumerate(node.value):
            if (key.tag, key.value) in keys[:place] and key.value != "<<":
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!a} occurs twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(file: str, where: str) -> Any:
    """Return the value of a YAML file, without aliases.

    Args:
        file: Its path.
        where: How messages call it.

    Raises:
        UsageError: It cannot be read, is too large, or is not valid YAML.
    """
    try:
        text = regular_file(Path(file)).read_bytes()
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror})") from error
    if len(text) > MAX_BYTES:
        raise UsageError(f"{where}: has {len(text):,} bytes; settings take at most {MAX_BYTES:,}, is it another file?")
    try:
        return _expanded(yaml.load(text.decode("utf-8"), Loader=_Loader), iter(range(MAX_VALUES)))
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # All but the first are what PyYAML raises for a tag that does not fit its value, such as `!!bool x`.
        raise UsageError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error


def _expanded(node: Any, left: Iterator[int]) -> Any:
    """Return a copy of a YAML value without aliases.

    Args:
        node: The value.
        left: Runs out when there are too many values: an alias may contain itself, or ten others that contain ten each.

    Raises:
        ValueError: There are too many values.
    """
    if next(left, None) is None:
        raise ValueError(f"its aliases stand for more than {MAX_VALUES:,} values")
    if isinstance(node, dict):
        return {key: _expanded(value, left) for key, value in node.items()}
    return [_expanded(value, left) for value in node] if isinstance(node, list) else node
