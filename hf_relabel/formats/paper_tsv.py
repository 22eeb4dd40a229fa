"""Labels in the format of the paper (arXiv 2603.05729): one line per image.

    n01440764/n01440764_10042.JPEG<TAB>0<TAB>0,391<TAB>0.2654,1.0000

The columns are the path of the image, its original class, its classes by index, and the probability of each class with
4 decimal places.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_export import Exported
from hf_relabel.formats.output import new_file
from hf_relabel.formats.releases import Imported, Names, class_list, origin, provenance, tables
from hf_relabel.release.reader import Release
from hf_relabel.release.writer import write_release
from hf_relabel.sources.image_ids import is_safe

CARRIES = (
    "Exported: original labels, and labels with scores to 4 decimal places. "
    "Not exported: label_score, masks and regions, image sizes, class names, name, version, split, provenance, "
    "excluded images."
)

COLUMNS = ("file", "original index", "class indices", "probabilities")


def export_tsv(release: Release, path: Path, *, overwrite: bool = False) -> Exported:
    """Write the labels of a release as TSV, with classes in ascending order.

    Raises:
        FormatError: The file exists or cannot be written.
        ReleaseError: A file of the release cannot be read.
    """
    images = labels = 0
    with new_file(path, overwrite) as file:
        for batch in release.batches("labels", ["image_id", "label", "labels", "scores"]):
            for row in batch.to_pylist():
                if row["label"] is None:
                    raise FormatError(
                        f"{row['image_id']}: has no original label, which this format needs; export coco instead"
                    )
                pairs = sorted(zip(row["labels"], row["scores"], strict=True))
                indices, scores = ",".join(str(label) for label, _ in pairs), ",".join(f"{p:.4f}" for _, p in pairs)
                file.write(f"{row['image_id']}\t{row['label']}\t{indices}\t{scores}\n")
                images += 1
                labels += len(pairs)
    return Exported(images, labels, 0)


def import_tsv(
    path: Path, folder: Path, *, names: Names, class_names: str | None = None, overwrite: bool = False
) -> Imported:
    """Write a release with the labels in a TSV file. It has no regions; image sizes are unknown and set to 0.

    Args:
        path: The TSV file, with lines in any order.
        folder: The release folder.
        names: Name, version and split of the release.
        class_names: File with the classes; by default ImageNet-1k's.
        overwrite: Replace an existing release.

    Raises:
        FormatError: The file is missing, or a line is not valid; the message names the line.
        SourceError: The file of class names cannot be read.
        ReleaseError: The release cannot be written.
    """
    classes = class_list(class_names)
    lines = _read(path, len(classes.names))
    release = write_release(
        folder,
        {names.split: tables(_rows(path, lines, len(classes.names)), classes.names)},
        class_names=classes.names,
        version=names.version,
        name=names.name,
        provenance=provenance(format="tsv", **origin(path)),
        overwrite=overwrite,
    )
    return Imported(folder, {key: release.statistics[key] for key in ("images", "labels")}, {})


def _read(path: Path, classes: int) -> list[str]:
    """Read and check the lines of the file."""
    lines = []
    try:
        with open(regular_file(path), encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                lines.append(line.rstrip("\r\n"))
                try:
                    _parse(lines[-1], classes)
                except ValueError as error:
                    raise FormatError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}); give a TSV file") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text ({error.reason})") from error
    if not lines:
        raise FormatError(f"{path}: has no lines; each must be {'<TAB>'.join(COLUMNS)}")
    return lines


def _rows(path: Path, lines: list[str], classes: int) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of the `regions` configuration, sorted by image, with labels in descending score order."""
    before = -1
    for place in sorted(range(len(lines)), key=lambda place: lines[place].partition("\t")[0]):
        image_id, label, pairs = _parse(lines[place], classes)
        if before >= 0 and lines[before].startswith(f"{image_id}\t"):
            raise FormatError(f"{path}, line {place + 1}: the image {image_id!r} is already on line {before + 1}")
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        yield {
            "image_id": image_id,
            "label": label,
            "labels": [index for index, _ in pairs],
            "scores": [score for _, score in pairs],
            "width": 0,
            "height": 0,
            "regions": [],
        }
        before = place


def _parse(line: str, classes: int) -> tuple[str, int, list[tuple[int, float]]]:
    """Parse a line into image id, original class, and classes with probabilities; raise ValueError if not valid."""
    cells = line.split("\t")
    if len(cells) != len(COLUMNS):
        raise ValueError(f"has {len(cells)} columns instead of {len(COLUMNS)}: {', '.join(COLUMNS)}")
    image_id, original, indices, scores = cells
    if not is_safe(image_id):
        raise ValueError(f"{image_id!a} is not an image id: it must be a relative path without `..`")
    originals, labels, values = _integers(original), _integers(indices), _floats(scores)
    if len(originals) != 1:
        raise ValueError(f"has {original!r} as the original class, which must be one class")
    if len(labels) != len(values):
        raise ValueError(f"has {len(labels)} classes and {len(values)} probabilities")
    outside = [index for index in (*originals, *labels) if not 0 <= index < classes]
    if outside:
        raise ValueError(f"contains class {outside[0]}, but valid classes are 0 to {classes - 1} (see --class-names)")
    if len(set(labels)) < len(labels):
        raise ValueError(f"contains a class twice: {indices!r}")
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"has probabilities outside 0 to 1: {scores!r}")
    return image_id, originals[0], list(zip(labels, values, strict=True))


def _integers(cell: str) -> list[int]:
    try:
        return [int(part) for part in cell.split(",")] if cell else []
    except ValueError:
        raise ValueError(f"{cell!r} is not a list of class indices such as 0,391") from None


def _floats(cell: str) -> list[float]:
    try:
        values = [float(part) for part in cell.split(",")] if cell else []
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{cell!r} is not a list of probabilities such as 0.2654,1.0000")
    return values
