"""Import a release from a COCO JSON file written by `coco_export`. Every row and mask is checked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_relabel.config.checks import is_line
from hf_relabel.errors import FormatError, UsageError
from hf_relabel.formats.coco_fields import EXCLUDED, FIRST_CATEGORY_ID, LABELS, ORIGINAL, RELEASE, TOP_LABELS
from hf_relabel.formats.coco_file import CocoFile, Entry
from hf_relabel.formats.releases import Imported, Names, origin, tables
from hf_relabel.formats.segmentation import area_of, read_segmentation
from hf_relabel.release.rows import MAX_PIXELS
from hf_relabel.release.writer import write_release
from hf_relabel.schema import READABLE_VERSIONS, Excluded
from hf_relabel.sources.image_ids import is_safe

MAX_NUMBER = 1e30
"""Larger numbers than any that belongs here, and still exact enough for a float32."""

NOT_OURS = "; hf-relabel did not export this file: for masks without classes, use --propose.masks"


def import_coco(
    path: Path,
    folder: Path,
    *,
    version: str | None = None,
    name: str | None = None,
    split: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write the release in a file from `hf-relabel export coco`.

    Args:
        path: The COCO JSON file.
        folder: The release folder.
        version, name, split: Values to use instead of those in the file.
        overwrite: Replace an existing release.

    Raises:
        FormatError: The file is missing, damaged, or not such a file; the message names the line.
        ReleaseError: The release cannot be written.
    """
    coco = CocoFile(path)
    info = _info(coco)
    class_names = _class_names(coco)
    names = _names(path, info, version, name, split)
    release = write_release(
        folder,
        {names.split: tables(_rows(coco, len(class_names)), class_names)},
        class_names=class_names,
        version=names.version,
        name=names.name,
        provenance=info["provenance"] | {"imported": {"format": "coco", **origin(path)}},
        excluded=_excluded(coco),
        overwrite=overwrite,
    )
    counted = release.statistics
    facts = {key: counted[key] for key in ("images", "labels", "regions")}
    facts["excluded images"] = counted["excluded_images"]
    return Imported(folder, facts, {"annotations for images that the file does not list": coco.strays})


def _info(coco: CocoFile) -> dict[str, Any]:
    info = coco.head.get("info")
    ours = info.get(RELEASE) if isinstance(info, dict) else None
    if not isinstance(ours, dict):
        raise FormatError(f"{coco.path}: has no info.{RELEASE}{NOT_OURS}")
    if ours.get("schema_version") not in READABLE_VERSIONS:
        raise FormatError(
            f"{coco.path}: schema version {ours.get('schema_version')!a}, this hf_relabel reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; export the release again"
        )
    for key, kind in (("version", str), ("name", str), ("split", str), ("provenance", dict)):
        if not isinstance(ours.get(key), kind):
            raise FormatError(f"{coco.path}: info.{RELEASE}.{key} is {ours.get(key)!r}; export the release again")
    return ours


def _names(path: Path, info: dict[str, Any], version: str | None, name: str | None, split: str | None) -> Names:
    """Name, version and split of the release, as given or from the file."""
    try:
        Names(info["version"])
    except UsageError as error:
        if version is None:
            raise FormatError(f"{path}: info.{RELEASE}.version is not a version; set one ({error})") from error
    return Names(version or info["version"], name or info["name"], split or info["split"])


def _class_names(coco: CocoFile) -> list[str]:
    """Names of the categories; their ids must be those of the export, in order."""
    categories = coco.head.get("categories")
    names: list[str] = []
    for category in categories if isinstance(categories, list) else []:
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or category.get("id") != len(names) + FIRST_CATEGORY_ID:
            raise FormatError(
                f"{coco.path}: category {len(names) + FIRST_CATEGORY_ID} is {category!r}; each needs a name, and the "
                f"ids must be consecutive from {FIRST_CATEGORY_ID}"
            )
        if not is_line(name):
            raise FormatError(f"{coco.path}: the category name {name!a} is not one line of text; rename it")
        if name in names:
            raise FormatError(f"{coco.path}: two categories are named {name!r}; rename one of them")
        names.append(name)
    if not names:
        raise FormatError(f"{coco.path}: has no categories{NOT_OURS}")
    return names


def _excluded(coco: CocoFile) -> Iterator[Excluded]:
    items = coco.head.get(EXCLUDED, [])
    for item in items if isinstance(items, list) else [items]:
        image_id, reason = (item.get("image_id"), item.get("reason")) if isinstance(item, dict) else (None, None)
        if not isinstance(image_id, str) or not isinstance(reason, str):
            raise FormatError(
                f"{coco.path}: `{EXCLUDED}` contains {ascii(item)[:60]} instead of an image_id and a reason"
            )
        yield Excluded(image_id, reason)


def _rows(coco: CocoFile, classes: int) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of the `regions` configuration in the order of the image ids."""
    order = sorted(range(len(coco.names)), key=coco.names.__getitem__)
    for place in order:
        fields = _Fields(coco, coco.image(place), classes)
        image_id = coco.names[place]
        if not is_safe(image_id):
            raise fields.error(f"file_name {image_id!a} is not an image id: it must be a relative path without `..`")
        width, height = (fields.count(key) for key in ("width", "height"))
        label = None if fields.is_null(ORIGINAL) else fields.category(ORIGINAL)
        labels, scores = fields.ranking(LABELS, "scores")
        yield {
            "image_id": image_id,
            "label": label,
            "labels": labels,
            "scores": scores,
            "label_score": fields.score("label_score") if fields.has("label_score") else None,
            "width": width,
            "height": height,
            "regions": [_region(_Fields(coco, entry, classes), width, height) for entry in coco.annotations_of(place)],
        }


def _region(fields: "_Fields", width: int, height: int) -> dict[str, Any]:
    try:
        segmentation = read_segmentation(fields.get("segmentation"), height, width)
    except ValueError as error:
        raise fields.error(f"the segmentation {error}") from error
    area = fields.count("area")
    if area_of(segmentation) != area:
        raise fields.error(f"the mask has {area_of(segmentation)} pixels, but its area is {area}")
    top_labels, top_scores = fields.ranking(TOP_LABELS, "top_scores")
    return {
        "region_id": fields.text("region_id"),
        "label": fields.category("category_id"),
        "score": fields.score("score"),
        "top_labels": top_labels,
        "top_scores": top_scores,
        "bbox": fields.box("bbox"),
        "area": area,
        "generator": fields.text("generator") if fields.has("generator") else None,
        "segmentation": segmentation,
    }


class _Fields:
    """Typed access to the fields of an image or annotation; errors name the line."""

    def __init__(self, coco: CocoFile, entry: Entry, classes: int):
        self._coco = coco
        self._entry = entry
        self._classes = classes

    def error(self, reason: str) -> FormatError:
        return self._coco.error(self._entry, reason)

    def is_null(self, key: str) -> bool:
        return key in self._entry.value and self._entry.value[key] is None

    def has(self, key: str) -> bool:
        return key in self._entry.value

    def get(self, key: str) -> Any:
        if key not in self._entry.value:
            raise self.error(f"has no {key!r}{NOT_OURS}")
        return self._entry.value[key]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.error(f"{key!r} is {value!r}, not text")
        return value

    def count(self, key: str) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_PIXELS:
            shown = value if isinstance(value, int) and 0 <= value < 10**20 else ascii(value)[:60]
            limit = f" up to {MAX_PIXELS}" if isinstance(value, int) and value > 0 else ""
            raise self.error(f"{key!r} is {shown}, not a non-negative integer{limit}")
        return value

    def score(self, key: str) -> float:
        value = self.get(key)
        self._check_score(key, value)
        return value

    def _check_score(self, key: str, value: Any) -> None:
        if not _is_number(value) or not 0 <= value <= 1:
            raise self.error(f"{key!r} is {ascii(value)[:60]}, not a number in [0, 1]")

    def numbers(self, key: str, length: int | None = None) -> list[float]:
        values = self.get(key)
        if not isinstance(values, list) or not all(map(_is_number, values)) or length not in (None, len(values)):
            shown = ascii(values)[:60]
            raise self.error(f"{key!r} is {shown}, not a list of {length or ''} numbers".replace("  ", " "))
        return values

    def box(self, key: str) -> list[float]:
        values = [float(value) for value in self.numbers(key, 4)]
        if min(values) < 0:
            raise self.error(f"{key!r} is {values}, but no number of [x, y, width, height] may be negative")
        return values

    def category(self, key: str) -> int:
        return self._class(key, self.get(key))

    def ranking(self, labels: str, scores: str) -> tuple[list[int], list[float]]:
        """Classes with their scores."""
        found, values = [self._class(labels, item) for item in self.numbers(labels)], self.numbers(scores)
        for value in values:
            self._check_score(scores, value)
        if len(found) != len(values):
            raise self.error(f"{labels!r} has {len(found)} values and {scores!r} has {len(values)}")
        return found, values

    def _class(self, key: str, category: Any) -> int:
        if (
            not isinstance(category, int)
            or isinstance(category, bool)
            or not 0 <= category - FIRST_CATEGORY_ID < self._classes
        ):
            raise self.error(f"{key!r} contains the category {ascii(category)[:60]}, but there are {self._classes}")
        return category - FIRST_CATEGORY_ID


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
