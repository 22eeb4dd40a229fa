"""Reports: tables for the terminal and plain values for JSON."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_relabel.errors import OutputError, UsageError
from hf_relabel.run.store import write_json


def render(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table: first column left-aligned, others right-aligned, floats with four decimals, NaN and None `-`."""
    lines = [[str(cell) for cell in header], *[[_cell(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        aligned.append("  ".join(cells).rstrip())
    return "\n".join([aligned[0], "-" * max(map(len, aligned)), *aligned[1:]])


def _cell(value: object) -> str:
    if value is None or value != value:  # only NaN differs from itself
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def refuse_unwritable(*paths: str | None) -> None:
    """Raise UsageError if a results file cannot be written, so that the error comes before the work."""
    for path in filter(None, paths):
        folder = Path(path).absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
            raise UsageError(f"{path}: cannot be written; give a file in an existing, writable folder")


def write_results(path: str, value: Any) -> None:
    """Write results, which are plain values, to a JSON file.

    Raises:
        UsageError: The file cannot be written.
    """
    try:
        write_json(Path(path), value)
    except OutputError as error:
        raise UsageError(f"{error}, or give a file in an existing, writable folder") from error


def plain(value: Any) -> Any:
    """Convert results to JSON values: dataclasses become objects, NaN (nothing to measure) becomes null."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def low_scores_hint(highest: float, threshold: float, best: float) -> str:
    """The hint for a classifier whose scores are all below the threshold: sets of labels are empty, ranks are not."""
    return (
        f"note: every score is below the threshold {threshold:g} (the highest is {highest:.3f}), so no label is "
        "predicted and precision, recall and F1 are 0; mAP does not depend on it. The best F1 is at the threshold "
        f"{best:.3f}: set it, or train longer"
    )
