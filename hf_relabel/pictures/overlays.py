"""Draw an image with its regions, and contact sheets of several such images.

Each region has a translucent fill, an outline, and a tag with its class and score. Within one image, regions of the
same class have the same color.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco
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
"""RGB colors that are distinct and visible on photos; reused after the tenth class."""

MIN_LONGER_SIDE = 512  # pixels; smaller images are enlarged so that tags are legible
FILL_OPACITY = 0.25
DIM = 0.66  # relative brightness of the area outside all regions
PAPER, INK, FAINT_INK = (250, 250, 248), (34, 34, 38), (110, 110, 118)


def labeled_regions(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of a release's row that carry a label of their image."""
    return [region for region in row["regions"] if region["label"] in row["labels"]]


def draw_overlay(
    image: Image.Image,
    regions: Sequence[dict[str, Any]],
    class_names: Sequence[str] | None,
    longer_side: int = MIN_LONGER_SIDE,
) -> Image.Image:
    """Draw the regions over an image.

    Args:
        image: Image of the regions, upright as `source.load` returns it.
        regions: Regions from a row of a release: label (index in `class_names`), score, segmentation.
        class_names: Class names for the tags; None draws no tags.
        longer_side: Minimum longer side of the result in pixels; a smaller image is enlarged.

    Returns:
        RGB image.

    Raises:
        ReleaseError: The size of a mask differs from that of the image.
    """
    for region in regions:
        if list(region["segmentation"]["size"]) != [image.height, image.width]:
            raise ReleaseError(
                f"overlay: the mask size {region['segmentation']['size']} (height, width) differs from the image size "
                f"{[image.height, image.width]}; use the images that the release was built from"
            )
    scale = max(1.0, longer_side / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    base = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    stroke = max(size) / 170
    depths = [_depth(masks.decode(region["segmentation"]), size, stroke) for region in regions]
    covered = np.max([_coverage(depth) for depth in depths], axis=0) if depths else np.ones(base.shape[:2])
    drawn = base * (DIM + (1 - DIM) * covered[..., None])
    colors = colors_of([region["label"] for region in regions])
    for depth, color in zip(depths, colors, strict=True):
        drawn = _blend(drawn, color, FILL_OPACITY * _coverage(depth))
        drawn = _blend(drawn, (255, 255, 255), _band(depth, 2.2 * stroke))
        drawn = _blend(drawn, color, _band(depth, 1.4 * stroke))
    canvas = Image.fromarray(drawn.round().astype(np.uint8))
    if class_names is not None:
        _draw_tags(canvas, regions, depths, colors, class_names)
    return canvas


def draw_masks(image: Image.Image, found: Sequence[masks.RLE], longer_side: int = MIN_LONGER_SIDE) -> Image.Image:
    """Draw masks without classes over an image, each in its own color; the largest lie below the others."""
    ordered = sorted(found, key=lambda mask: -int(coco.area(mask)))
    regions = [{"label": number, "segmentation": mask} for number, mask in enumerate(ordered)]
    return draw_overlay(image, regions, None, longer_side)


def draw_row(
    image: Image.Image, row: dict[str, Any], class_names: Sequence[str], longer_side: int = MIN_LONGER_SIDE
) -> Image.Image:
    """Draw over an image the regions of its row of a release that carry one of its labels."""
    return draw_overlay(image, labeled_regions(row), class_names, longer_side)


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[Sequence[str]] | None = None,
    columns: int = 4,
    cell: int = 360,
) -> Image.Image:
    """Arrange images in a grid.

    Args:
        pictures: At least one image; each is resized to fit its cell.
        captions: Lines of text below each image, the first one darker.
        columns: Maximum number of images per row.
        cell: Side of an image's cell in pixels.

    Returns:
        RGB image.

    Raises:
        ValueError: There are no images, or the number of captions differs from the number of images.
    """
    if not pictures or (captions is not None and len(captions) != len(pictures)):
        raise ValueError("contact_sheet: needs at least one image, and one caption per image")
    columns = min(columns, len(pictures))
    gap, font_size = cell // 20, max(12, cell // 20)
    font = ImageFont.load_default(font_size)
    line = round(font_size * 1.35)
    lines = max((len(caption) for caption in captions), default=0) if captions else 0
    pitch = cell + lines * line + gap  # distance between rows
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * pitch + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, picture in enumerate(pictures):
        left, top = gap + number % columns * (cell + gap), gap + number // columns * pitch
        scale = cell / max(picture.size)
        fitted = [max(1, round(side * scale)) for side in picture.size]
        corner = (left + (cell - fitted[0]) // 2, top + (cell - fitted[1]) // 2)
        sheet.paste(picture.convert("RGB").resize(fitted, Image.Resampling.LANCZOS), corner)
        for index, text in enumerate(captions[number] if captions else ()):
            position = (left, top + cell + line * index + line // 5)
            draw.text(position, fit_text(text, font, cell), fill=FAINT_INK if index else INK, font=font)
    return sheet


def _depth(mask: np.ndarray, size: tuple[int, int], smooth: float) -> np.ndarray:
    """Compute each pixel's signed distance to the mask's edge, positive inside: float32 [H, W].

    The mask is resized as a smooth field, so that the outline of an enlarged mask has no pixel steps.
    """
    field = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    inside = ndimage.gaussian_filter(np.asarray(field), smooth / 2) > 0.5
    return (ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)).astype(np.float32)


def _coverage(depth: np.ndarray) -> np.ndarray:
    """Compute the opacity of a region: 1 inside, 0 outside, antialiased along the edge."""
    return (depth + 0.5).clip(0, 1)


def _band(depth: np.ndarray, width: float) -> np.ndarray:
    """Compute the opacity of an outline of this width: 1 on the edge, 0 elsewhere, antialiased."""
    return (width / 2 - np.abs(depth) + 0.5).clip(0, 1)


def _blend(pixels: np.ndarray, color: tuple[int, int, int], opacity: np.ndarray) -> np.ndarray:
    weight = opacity[..., None]
    return pixels * (1 - weight) + np.array(color, np.float32) * weight


def colors_of(labels: Sequence[int]) -> list[tuple[int, int, int]]:
    """Assign a color to each region, in the order in which the classes first appear."""
    order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [PALETTE[order[label] % len(PALETTE)] for label in labels]


def _draw_tags(
    canvas: Image.Image,
    regions: Sequence[dict[str, Any]],
    depths: Sequence[np.ndarray],
    colors: Sequence[tuple[int, int, int]],
    class_names: Sequence[str],
) -> None:
    """Draw each region's class and score above its mask, or at the nearest height that no earlier tag covers."""
    font_size = max(12, round(max(canvas.size) / 26))
    font = ImageFont.load_default(font_size)
    draw = ImageDraw.Draw(canvas)
    pad = round(font_size * 0.35)
    height = round(font_size * 1.5)
    taken: list[tuple[int, int, int, int]] = []
    for region, depth, color in zip(regions, depths, colors, strict=True):
        score = f"  {region['score']:.2f}"
        room = canvas.width - 2 * pad - font.getlength(score)
        text = fit_text(class_names[region["label"]], font, room) + score
        width = round(font.getlength(text)) + 2 * pad
        x, y, _, _ = masks.bbox(depth > 0)
        left = int(min(x, max(canvas.width - width, 0)))
        wanted, lowest = max(int(y) - height, 0), max(canvas.height - height, 0)
        tops = [*range(wanted, lowest + 1), *range(min(wanted, lowest), -1, -1)]
        free = (y for y in tops if not any(_overlap((left, y, left + width, y + height), box) for box in taken))
        top = next(free, tops[0])
        taken.append((left, top, left + width, top + height))
        draw.rounded_rectangle(taken[-1], radius=height // 4, fill=color)
        dark = np.dot(color, (0.299, 0.587, 0.114)) > 150  # luma, ITU-R BT.601
        draw.text((left + pad, top + height / 2), text, fill=INK if dark else "white", font=font, anchor="lm")


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def fit_text(text: str, font: Any, width: float) -> str:
    """Truncate text to `width` pixels, with three dots at the end."""
    if font.getlength(text) <= width:
        return text
    kept = bisect.bisect_right(range(1, len(text)), width, key=lambda end: font.getlength(text[:end] + "..."))
    return text[:kept] + "..."
