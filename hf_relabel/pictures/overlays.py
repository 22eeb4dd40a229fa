"""Pictures of a result: an image with its regions drawn over it, and sheets of many such pictures.

Each region is a translucent colour with an outline, and a tag with its class and score. Colours are by class within
one picture: two regions of one class look alike.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from hf_relabel.errors import ReleaseError
from hf_relabel.vision import masks

PALETTE = (
    (255, 82, 82),
    (41, 151, 255),
    (255, 193, 7),
    (0, 200, 120),
    (186, 85, 255),
    (255, 133, 27),
    (0, 205, 215),
    (255, 105, 180),
    (160, 200, 40),
    (120, 120, 255),
)
"""RGB colours that differ from each other and show on photos; reused after the tenth class."""

LONGER_SIDE = 512  # pixels; smaller images are enlarged to it, so that tags are legible
FILL_OPACITY = 0.25
DIM = 0.66  # brightness of what no region covers
PAPER, INK, FAINT_INK = (250, 250, 248), (34, 34, 38), (110, 110, 118)


def draw_overlay(
    image: Image.Image,
    regions: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    longer_side: int = LONGER_SIDE,
) -> Image.Image:
    """The image with its regions, RGB; enlarged if its longer side is below `longer_side`.

    Args:
        image: The picture the regions were found in, upright as `source.load` returns it.
        regions: Regions of a release's row: label (index of `class_names`), score, segmentation.
        class_names: Names for the tags.
        longer_side: Least pixels of the longer side.

    Raises:
        ReleaseError: A mask has another size than the image.
    """
    for region in regions:
        if list(region["segmentation"]["size"]) != [image.height, image.width]:
            raise ReleaseError(
                f"overlay: a mask of {region['segmentation']['size']} (height, width) does not fit an image of "
                f"{[image.height, image.width]}; are the images those the release was made from?"
            )
    scale = max(1.0, longer_side / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    base = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    stroke = max(size) / 170
    depths = [_depth(masks.decode(region["segmentation"]), size, stroke) for region in regions]
    covered = np.max([_coverage(depth) for depth in depths], axis=0) if depths else np.ones(base.shape[:2])
    picture = base * (DIM + (1 - DIM) * covered[..., None])
    colours = _colours([region["label"] for region in regions])
    for depth, colour in zip(depths, colours, strict=True):
        picture = _blend(picture, colour, FILL_OPACITY * _coverage(depth))
        picture = _blend(picture, (255, 255, 255), _band(depth, 2.2 * stroke))
        picture = _blend(picture, colour, _band(depth, 1.4 * stroke))
    canvas = Image.fromarray(picture.round().astype(np.uint8))
    _draw_tags(canvas, regions, depths, colours, class_names)
    return canvas


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[Sequence[str]] | None = None,
    columns: int = 4,
    cell: int = 360,
) -> Image.Image:
    """Pictures in rows, RGB.

    Args:
        pictures: At least one; each is shrunk or enlarged to fit its cell.
        captions: For each picture the lines of text below it, the first one darker.
        columns: Pictures in a row.
        cell: Side of a picture's cell in pixels.

    Raises:
        ValueError: No pictures, or another number of captions.
    """
    if not pictures or (captions is not None and len(captions) != len(pictures)):
        raise ValueError("contact_sheet: at least one picture, and as many captions as pictures")
    columns = min(columns, len(pictures))
    gap, font = cell // 20, ImageFont.load_default(max(12, cell // 20))
    line = round(font.size * 1.35)
    lines = max((len(caption) for caption in captions), default=0) if captions else 0
    pitch = cell + lines * line + gap  # from one row to the next
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * pitch + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, picture in enumerate(pictures):
        left, top = gap + number % columns * (cell + gap), gap + number // columns * pitch
        scale = cell / max(picture.size)
        fitted = [max(1, round(side * scale)) for side in picture.size]
        corner = (left + (cell - fitted[0]) // 2, top + (cell - fitted[1]) // 2)
        sheet.paste(picture.convert("RGB").resize(fitted, Image.Resampling.LANCZOS), corner)
        for place, text in enumerate(captions[number] if captions else ()):
            where = (left, top + cell + line * place + line // 5)
            draw.text(where, fit_text(text, font, cell), fill=FAINT_INK if place else INK, font=font)
    return sheet


def _depth(mask: np.ndarray, size: tuple[int, int], smooth: float) -> np.ndarray:
    """How many pixels each pixel of the picture lies inside the mask's edge, negative outside: float32 [H, W].

    The mask is enlarged as a smooth field, which takes the pixel stairs off its outline.
    """
    field = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    inside = ndimage.gaussian_filter(np.asarray(field), smooth / 2) > 0.5
    return (ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)).astype(np.float32)


def _coverage(depth: np.ndarray) -> np.ndarray:
    """1 inside, 0 outside, between along the edge."""
    return (depth + 0.5).clip(0, 1)


def _band(depth: np.ndarray, width: float) -> np.ndarray:
    """1 on a line of this width along the edge, 0 elsewhere, softened by a pixel."""
    return (width / 2 - np.abs(depth) + 0.5).clip(0, 1)


def _blend(picture: np.ndarray, colour: tuple[int, int, int], opacity: np.ndarray) -> np.ndarray:
    weight = opacity[..., None]
    return picture * (1 - weight) + np.float32(colour) * weight


def _colours(labels: Sequence[int]) -> list[tuple[int, int, int]]:
    """A colour for each region, by the order in which the classes appear."""
    order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [PALETTE[order[label] % len(PALETTE)] for label in labels]


def _draw_tags(
    canvas: Image.Image,
    regions: Sequence[dict[str, Any]],
    depths: Sequence[np.ndarray],
    colours: Sequence[tuple[int, int, int]],
    class_names: Sequence[str],
) -> None:
    """Class and score of each region above its mask, or as near to that as earlier tags allow."""
    font = ImageFont.load_default(max(12, round(max(canvas.size) / 26)))
    draw = ImageDraw.Draw(canvas)
    pad = round(font.size * 0.35)
    height = round(font.size * 1.5)
    taken: list[tuple[int, int, int, int]] = []
    for region, depth, colour in zip(regions, depths, colours, strict=True):
        score = f"  {region['score']:.2f}"
        room = canvas.width - 2 * pad - font.getlength(score)
        text = fit_text(class_names[region["label"]], font, room) + score
        width = round(font.getlength(text)) + 2 * pad
        left, top, _, _ = masks.bbox(depth > 0)
        left = int(min(max(left, 0), max(canvas.width - width, 0)))
        wanted, lowest = max(int(top) - height, 0), max(canvas.height - height, 0)
        tops = [*range(wanted, lowest + 1), *range(min(wanted, lowest), -1, -1)]
        free = (y for y in tops if not any(_overlap((left, y, left + width, y + height), box) for box in taken))
        top = next(free, tops[0])
        taken.append((left, top, left + width, top + height))
        draw.rounded_rectangle(taken[-1], radius=height // 4, fill=colour)
        dark = np.dot(colour, (0.299, 0.587, 0.114)) > 150  # luma, ITU-R BT.601
        draw.text((left + pad, top + height / 2), text, fill=INK if dark else "white", font=font, anchor="lm")


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def fit_text(text: str, font: Any, width: float) -> str:
    """The text, its end replaced by dots where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    kept = bisect.bisect_right(range(1, len(text)), width, key=lambda end: font.getlength(text[:end] + "..."))
    return text[:kept] + "..."
