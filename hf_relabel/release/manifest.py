"""The typed check of a release's `manifest.json`; a release may come from anyone.

What passes has the types, names and counts that readers, cards and charts rely on. `release.verify` then compares it
with the files.
"""

import re
from collections.abc import Iterable
from typing import Any

from hf_relabel.config.checks import is_line
from hf_relabel.config.json_file import parse_json
from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import EXCLUDED, ReleaseFile, data_file_place
from hf_relabel.release.statistics import SCORE_BINS
from hf_relabel.schema import CONFIG_NAMES, READABLE_VERSIONS

MAX_DEPTH = 30
"""Levels of nesting in a manifest."""

MAX_COUNT = 2**53
"""Largest count; larger whole numbers are not exact in JSON readers of other languages."""

MAX_INTEGER = 2**64
"""Largest whole number in the provenance; one beyond the range of floats cannot be formatted on a card."""

_SECTIONS = (
    "tool", "backbone", "labeler", "config", "packages", "machines", "scores", "carried", "imported", "corrections",
    "checked",
)  # fmt: skip
"""Parts of the provenance that are objects where they are present."""

SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
"""Names of splits that the datasets library accepts."""

_VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)

_COUNTS = ("images", "labels", "regions", "excluded_images")
_SHARES = ("multi_label_share", "original_in_labels_share", "original_is_first_share")
_HISTOGRAMS = ("labels_per_image", "regions_per_image", "excluded")
_PER_CLASS = ("originals_per_class", "labels_per_class", "added_per_class")
_PER_BIN = ("scores_original", "scores_added")


class _Damage(Exception):
    """Why a manifest is not valid, as `where: what`."""


def parse_manifest(text: str | bytes, where: object) -> dict[str, Any]:
    """Read and check the text of a manifest; the entries of `files` become `ReleaseFile`.

    Args:
        text: Content of the file.
        where: The file, for messages.

    Raises:
        ReleaseError: It is damaged or has another schema version.
    """
    try:
        values = parse_json(text, is_strict=True)
        found = values["schema_version"]
        if found not in READABLE_VERSIONS or isinstance(found, bool):
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise ReleaseError(
                f"{where}: schema version {found!a}, but this hf_relabel reads {readable}; build the release again"
            )
        return _checked(values)
    except (ValueError, KeyError, TypeError, RecursionError, _Damage) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise ReleaseError(f"{where}: damaged manifest ({reason[:300]}); build the release again") from error


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    _check_depth(values)
    names = values["class_names"]
    _require(_is_list_of(names, str) and names and all(map(is_line, names)), "class_names", "a list of names", names)
    if len(set(names)) < len(names):
        raise _Damage("class_names: a name occurs twice")
    _require(isinstance(values["version"], str) and _VERSION.fullmatch(values["version"]), "version",
             "three numbers such as 1.0.0", values["version"])  # fmt: skip
    _require(isinstance(values["name"], str) and is_line(values["name"]), "name", "one line of text", values["name"])
    _require(_is_split(values["split"]), "split", "a name such as train", values["split"])
    _check_statistics(values["statistics"], "statistics", len(names))
    splits = values.get("splits", {})
    _require(isinstance(splits, dict) and len(splits) != 1 and all(map(_is_split, splits)), "splits",
             "the statistics of each split", splits)  # fmt: skip
    for split, counts in splits.items():
        _check_statistics(counts, f"splits.{split}", len(names))
    if splits and next(iter(splits)) != values["split"]:
        raise _Damage(f"split: is {values['split']!a}, but the first of the splits is {next(iter(splits))!a}")
    _check_provenance(values["provenance"])
    files = _files(values["files"], list(splits) or [values["split"]])
    for config_name in CONFIG_NAMES:
        rows = sum(file.rows for file in files if file.config_name == config_name)
        if rows != values["statistics"]["images"]:
            raise _Damage(
                f"files: {config_name} has {rows} rows, but there are {values['statistics']['images']} images"
            )
    return {**values, "files": files, "splits": splits}


def _files(entries: Any, splits: list[str]) -> list[ReleaseFile]:
    """The entries of `files`: nothing but `excluded.jsonl` and complete sets of data files, each once."""
    _require(_is_list_of(entries, dict), "files", "a list of objects", entries)
    kinds = {"path": str, "config_name": str | None, "rows": int, "bytes": int, "sha256": str}
    places: dict[tuple[str | None, str], list[tuple[int, int]]]
    places = {(name, split): [] for name in CONFIG_NAMES for split in splits}
    paths: set[str] = set()
    files: list[ReleaseFile] = []
    for number, entry in enumerate(entries):
        _require(entry.keys() == kinds.keys(), f"files.{number}", f"an object of {', '.join(kinds)}", entry)
        for key, kind in kinds.items():
            is_valid = _is_count(entry[key]) if kind is int else isinstance(entry[key], kind)
            _require(is_valid, f"files.{number}.{key}", "a count" if kind is int else "text", entry[key])
        file = ReleaseFile(**entry)
        place = data_file_place(file.path)
        if place is not None and file.config_name == place.config_name and (file.config_name, place.split) in places:
            places[file.config_name, place.split].append((place.index, place.count))
        elif file.path != EXCLUDED or file.config_name is not None:
            raise _Damage(f"files.{number}: {file.path!a} is not a file of a release; do not use this release")
        if file.path in paths:
            raise _Damage(f"files.{number}: {file.path} is listed twice")
        paths.add(file.path)
        files.append(file)
    for (name, split), found in places.items():
        if not found or found != [(index, len(found)) for index in range(len(found))]:
            raise _Damage(f"files: data/{name} does not have all files of the split {split}, in order")
    return files


def _check_statistics(counts: Any, where: str, classes: int) -> None:
    _require(isinstance(counts, dict), where, "an object", counts)
    for key in (*_COUNTS, *(["images_without_original"] if "images_without_original" in counts else [])):
        _require(_is_count(counts[key]), f"{where}.{key}", "a count", counts[key])
    for key in _SHARES:
        _require(_is_number(counts[key]) and 0 <= counts[key] <= 1, f"{where}.{key}", "a share in [0, 1]", counts[key])
    mean = counts["mean_labels_per_image"]
    _require(_is_number(mean) and 0 <= mean <= classes, f"{where}.mean_labels_per_image", "a mean", mean)
    for key in _HISTOGRAMS:
        is_valid = isinstance(counts[key], dict) and all(map(_is_count, counts[key].values()))
        if key != "excluded":
            is_valid = is_valid and all(re.fullmatch(r"\d{1,9}", bin_, re.ASCII) for bin_ in counts[key])
        _require(is_valid, f"{where}.{key}", "counts by value", counts[key])
    for keys, length in ((_PER_CLASS, classes), (_PER_BIN, SCORE_BINS)):
        for key in keys:
            is_valid = isinstance(counts[key], list) and len(counts[key]) == length and all(map(_is_count, counts[key]))
            _require(is_valid, f"{where}.{key}", f"a list of {length} counts", counts[key])
    pairs = counts["label_pairs"]
    is_valid = _is_list_of(pairs, list) and all(
        len(pair) == 3 and all(map(_is_count, pair)) and max(pair[:2]) < classes for pair in pairs
    )
    _require(is_valid, f"{where}.label_pairs", "a list of [class, class, count]", pairs)


def _check_provenance(provenance: Any) -> None:
    _require(isinstance(provenance, dict), "provenance", "an object", provenance)
    for key in _SECTIONS:
        _require(isinstance(provenance.get(key), dict | None), f"provenance.{key}", "an object", provenance.get(key))
    objects = {f"config.{key}": value for key, value in (provenance.get("config") or {}).items()}
    objects["labeler.head"] = (provenance.get("labeler") or {}).get("head")
    for key, value in objects.items():
        _require(isinstance(value, dict | None), f"provenance.{key}", "an object", value)
    fingerprint = provenance.get("fingerprint")
    _require(isinstance(fingerprint, str | None), "provenance.fingerprint", "text", fingerprint)
    _check_numbers(provenance, "provenance")


def _check_numbers(node: Any, where: str) -> None:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            _check_numbers(value, f"{where}.{key}")
    elif isinstance(node, int):
        _require(abs(node) <= MAX_INTEGER, where, f"at most {MAX_INTEGER}", node)


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [item for node in level if isinstance(node, dict | list) for item in _items(node)]
    if level:
        raise _Damage("it is nested too deeply")


def _items(node: Any) -> Iterable[Any]:
    for item in [*node, *node.values()] if isinstance(node, dict) else node:
        if isinstance(item, str) and not _is_text(item):
            raise _Damage(f"{item!a} is not valid text")
        yield item


def _require(is_valid: Any, where: str, expected: str, value: Any) -> None:
    if not is_valid:
        shown = ascii(value)
        raise _Damage(f"{where}: must be {expected}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _is_list_of(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _is_split(value: Any) -> bool:
    return isinstance(value, str) and SPLIT_NAME.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
