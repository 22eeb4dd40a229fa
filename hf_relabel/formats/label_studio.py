"""Export a release as tasks for Label Studio: regions and labels as predictions, which people can correct there.

    label_config.xml    the project's labeling interface
    tasks.json          one task per image; each region is a brush mask or polygons, with its score

The image's labels are the choices `labels`; their scores are in the task's data, by class. Brush masks use Label
Studio's own run lengths (rle-pack: bits, row by row, four channels per pixel), which differ from COCO's.
"""

import json
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from hf_relabel.formats.coco_export import Exported
from hf_relabel.formats.mask_formats import probability_of
from hf_relabel.formats.output import new_folder
from hf_relabel.formats.release_images import image_ids
from hf_relabel.formats.score_files import all_rows
from hf_relabel.release.reader import Release
from hf_relabel.vision.masks import RLE, decode
from hf_relabel.vision.polygons import polygons

LabelStudioMasks = Literal["brush", "polygons"]

CARRIES = (
    "Exported: labels as choices, regions with class and mask, scores of both. "
    "Not exported: the regions' other classes, label_score, generator, provenance, excluded images."
)

TASKS, CONFIG = "tasks.json", "label_config.xml"

_CHANNELS = 4
_RUN_BITS = (3, 4, 8, 16)
"""Sizes in bits of a run's length minus one; two bits in front of each run choose one."""


def export_label_studio(
    release: Release,
    folder: Path,
    *,
    image_root: str,
    masks: LabelStudioMasks = "brush",
    overwrite: bool = False,
) -> Exported:
    """Write a release as a folder with tasks for Label Studio, completely or not at all.

    Args:
        release: The release.
        folder: The folder to create.
        image_root: Start of the images' addresses, to which the quoted image id is added.
        masks: Brush masks, which are exact, or polygons, one per part of a region.
        overwrite: Replace an existing folder of this kind.

    Raises:
        FormatError: The folder exists or cannot be written.
        ReleaseError: The release cannot be read.
    """
    with new_folder(folder, TASKS, (TASKS, CONFIG), overwrite) as staging:
        for _ in image_ids(release):  # check them
            pass
        (staging / CONFIG).write_text(label_config(release.class_names, masks), encoding="utf-8")
        counts = [0, 0, 0]
        with open(staging / TASKS, "w", encoding="utf-8") as file:
            for row in all_rows(release):
                task = _task(row, release, image_root, masks)
                file.write(("[\n" if not counts[0] else ",\n") + json.dumps(task, ensure_ascii=False))
                counts = [counts[0] + 1, counts[1] + len(row["labels"]), counts[2] + len(row["regions"])]
            file.write("\n]\n" if counts[0] else "[]\n")
    return Exported(*counts)


def label_config(class_names: list[str], masks: LabelStudioMasks) -> str:
    """The labeling interface: an image, its labels as choices, and its regions."""
    tag = "BrushLabels" if masks == "brush" else "PolygonLabels"
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in class_names)
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    return (
        "<View>\n"
        '  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <{tag} name="regions" toName="image">\n{labels}\n  </{tag}>\n'
        f'  <Choices name="labels" toName="image" choice="multiple">\n{choices}\n  </Choices>\n'
        "</View>\n"
    )


def _task(row: dict[str, Any], release: Release, image_root: str, masks: LabelStudioMasks) -> dict[str, Any]:
    names = release.class_names
    shown = [names[label] for label in row["labels"]]
    results = [{"id": "labels", "type": "choices", **_places("labels"), "value": {"choices": shown}}] if shown else []
    for number, region in enumerate(row["regions"]):
        results += _regions(number, region, row, names[region["label"]], masks)
    data = {
        "image": image_root + quote(row["image_id"]),
        "image_id": row["image_id"],
        "original_label": None if row["label"] is None else names[row["label"]],
        "label_scores": {name: round(score, 4) for name, score in zip(shown, row["scores"], strict=True)},
    }
    # A task's own score sorts tasks in the data manager: the least sure label first.
    prediction = {"model_version": f"{release.name} {release.version}", "score": min(row["scores"], default=0.0)}
    return {"data": data, "predictions": [{**prediction, "result": results}]}


def _places(name: str) -> dict[str, str]:
    return {"from_name": name, "to_name": "image"}


def _regions(
    number: int, region: dict[str, Any], row: dict[str, Any], name: str, masks: LabelStudioMasks
) -> list[dict[str, Any]]:
    """A region as one brush mask, or as one polygon per part."""
    probability = probability_of(region["label"], row)
    common = {
        **_places("regions"),
        "original_width": row["width"],
        "original_height": row["height"],
        "image_rotation": 0,
        "score": round(region["score"] if probability is None else probability, 4),
        "meta": {"text": [f"region score {region['score']:.3f}"]},
    }
    if masks == "brush":
        value: dict[str, Any] = {"format": "rle", "rle": brush_rle(region["segmentation"]), "brushlabels": [name]}
        return [{"id": f"region{number}", "type": "brushlabels", **common, "value": value}]
    results = []
    for part, outline in enumerate(polygons(decode(region["segmentation"]))):
        percent = outline * 100.0 / [row["width"], row["height"]]
        value = {"points": percent.round(4).tolist(), "closed": True, "polygonlabels": [name]}
        results.append({"id": f"region{number}-{part}", "type": "polygonlabels", **common, "value": value})
    return results


def brush_rle(rle: RLE) -> list[int]:
    """Encode a mask in Label Studio's run lengths, as a list of bytes.

    32 bits: number of values; 5: bits per value - 1; four times 4: the sizes of a length - 1. Then for each run a 1,
    two bits for the size, the length - 1 and the value (after the decoder of rle-pack).
    """
    values = decode(rle).ravel()
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    starts = np.append(0, ends[:-1])
    bits = [f"{len(values) * _CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value = "11111111" if values[start] else "00000000"
        left = (end - start) * _CHANNELS
        while left:
            length = min(left, 1 << _RUN_BITS[-1])
            choice = next(index for index, size in enumerate(_RUN_BITS) if length <= 1 << size)
            bits.append(f"1{choice:02b}{length - 1:0{_RUN_BITS[choice]}b}{value}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
