"""True objects of images, which proposals are compared with.

    FILE.jsonl   rows with `image_id` and `objects`, each with its `class` and its `segmentation` (COCO RLE or polygons)
                 or `bbox`, such as the demo's truth.jsonl
    FILE.json    COCO's instances; objects that are crowds are left out
    FOLDER       a file IMAGE.txt per image in YOLO's form: per line a class, then the relative corners of a polygon, or
                 the center, width and height of a box

If any object has no mask, all objects and proposals are compared by their boxes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from hf_relabel.config.checks import regular_file
from hf_relabel.config.json_file import parse_json
from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_file import CocoFile
from hf_relabel.formats.segmentation import is_degenerate, read_segmentation
from hf_relabel.vision.masks import RLE

CROWD, EMPTY = "crowds of objects", "objects without an area"


@dataclass(frozen=True)
class TrueObject:
    """An object.

    Args:
        label: Its class.
        box: Its bounding box, x, y, width and height in pixels.
        mask: Its mask of the image's size; None if only the box is known.
        area: Its mask's area, or its box's, in pixels.
    """

    label: str
    box: list[float]
    mask: RLE | None
    area: float


@dataclass(frozen=True)
class Objects:
    """The true objects of images.

    Args:
        origin: File or folder, for messages.
        items: For each image, by id or by file name without folder and suffix, its objects as they are stored.
        by_stem: Whether images are found by file name without folder and suffix.
        left_out: Number of objects that are left out, by reason.
    """

    origin: str
    items: Mapping[str, list[dict[str, Any]]]
    by_stem: bool
    left_out: Counter[str]

    def has(self, image_id: str) -> bool:
        """Whether the objects of an image are known; it may have none."""
        return self._key(image_id) in self.items

    def of(self, image_id: str, width: int, height: int) -> list[TrueObject]:
        """The objects of an image of this size.

        Raises:
            FormatError: A mask is damaged or has another size than the image.
        """
        found = []
        for item in self.items[self._key(image_id)]:
            try:
                one = _object(item, width, height)
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(f"{self.origin}: an object of {image_id} {error}") from error
            if one is None or one.area <= 0:
                self.left_out[EMPTY] += 1
            else:
                found.append(one)
        return found

    def _key(self, image_id: str) -> str:
        return PurePosixPath(image_id).stem if self.by_stem else image_id


def read_objects(path: str) -> Objects:
    """Read true objects; the docstring of the module lists the accepted forms.

    Raises:
        FormatError: The file is missing, damaged, or none of these.
    """
    file = Path(path)
    if file.is_dir():
        return _from_folder(file)
    if file.suffix == ".json":
        return _from_coco(file)
    if file.suffix != ".jsonl":
        raise FormatError(f"{path}: true objects must be a .jsonl file, COCO's .json, or a folder of YOLO's .txt files")
    try:
        lines = regular_file(file).read_text(encoding="utf-8").splitlines()
        rows = [parse_json(line) for line in lines if line.strip()]
        items = {str(row["image_id"]): list(row["objects"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: cannot be read ({reason}); each line needs image_id and objects") from error
    return Objects(path, items, False, Counter())


def _from_coco(path: Path) -> Objects:
    file = CocoFile(path)
    categories = file.head.get("categories")
    names = {item.get("id"): str(item.get("name")) for item in categories or [] if isinstance(item, dict)}
    items: dict[str, list[dict[str, Any]]] = {}
    left_out: Counter[str] = Counter()
    for place, name in enumerate(file.names):
        items[name] = []
        for entry in file.annotations_of(place):
            if entry.value.get("iscrowd"):
                left_out[CROWD] += 1
                continue
            category = entry.value.get("category_id")
            items[name].append({**entry.value, "class": names.get(category, str(category))})
    return Objects(str(path), items, False, left_out)


def _from_folder(folder: Path) -> Objects:
    items: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.txt")):
        items[file.stem] = []
        for number, line in enumerate(regular_file(file).read_text(encoding="utf-8").splitlines(), start=1):
            label, *texts = line.split() or [""]
            try:
                numbers = [float(text) for text in texts]
            except ValueError:
                numbers = []
            if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
                raise FormatError(f"{file}, line {number}: needs a class and a box or a polygon of numbers")
            items[file.stem].append({"class": label, "relative": numbers})
    if not items:
        raise FormatError(f"{folder}: no .txt file in it; give the folder that has one per image")
    return Objects(str(folder), items, True, Counter())


def _object(item: dict[str, Any], width: int, height: int) -> TrueObject | None:
    """An object as it is stored; None for a polygon that covers nothing."""
    label = str(item["class"])
    segmentation, box = item.get("segmentation"), item.get("bbox")
    if (relative := item.get("relative")) is not None:
        scaled = (np.array(relative).reshape(-1, 2) * (width, height)).ravel()
        if len(relative) == 4:
            box = [*(scaled[:2] - scaled[2:] / 2).tolist(), *scaled[2:].tolist()]
        else:
            segmentation = [scaled.tolist()]
    if isinstance(segmentation, list):
        segmentation = [polygon for polygon in segmentation if not is_degenerate(polygon)]
    if segmentation:
        mask = read_segmentation(segmentation, height, width)
        return TrueObject(label, [float(side) for side in coco.toBbox(mask)], mask, float(coco.area(mask)))
    if box is None:
        return None
    x, y, w, h = map(float, box)
    return TrueObject(label, [x, y, w, h], None, w * h)
