"""The ways in which COCO files write a mask."""

from typing import Any, Literal

from hf_relabel.formats.segmentation import run_lengths
from hf_relabel.vision.masks import RLE, decode
from hf_relabel.vision.polygons import polygons

MaskFormat = Literal["rle", "uncompressed-rle", "polygons"]
"""rle: compressed run lengths, as pycocotools writes them. uncompressed-rle: run lengths as numbers, as CVAT writes and
documents them. polygons: along the edges of the pixels, exact when filled by the even-odd rule."""


def segmentation_of(rle: RLE, masks: MaskFormat) -> Any:
    """A mask as the value of COCO's field `segmentation`."""
    if masks == "polygons":
        return [outline.ravel().tolist() for outline in polygons(decode(rle))]
    if masks == "uncompressed-rle":
        return {"size": rle["size"], "counts": run_lengths(rle["counts"]).tolist()}
    return rle


def probability_of(label: int, row: dict[str, Any]) -> float | None:
    """The estimated probability that an image has a label; None if the label is not listed."""
    scores = dict(zip(row["labels"], row["scores"], strict=True))
    return scores.get(label)
