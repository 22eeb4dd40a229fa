"""A figure of one photo for papers and cards: the photo, its regions, and its labels with their scores."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from hf_relabel.pictures.overlays import FAINT_INK, INK, colors_of, draw_row, fit_text, labeled_regions

WITHOUT_REGION = (170, 170, 176)
"""Color of a label that no region shows."""

MAX_LABELS = 12
"""Labels that fit into a figure; of more, the number is given."""


def draw_figure(image: Image.Image, row: dict[str, Any], class_names: Sequence[str], side: int = 480) -> Image.Image:
    """Draw the three panels of a photo side by side on white.

    Args:
        image: The photo, upright.
        row: Its row of a release's configuration `regions`.
        class_names: Names of the release's classes.
        side: Longer side of a panel in pixels.

    Returns:
        RGB image.

    Raises:
        ReleaseError: The size of a mask differs from that of the photo.
    """
    overlay = draw_row(image, row, class_names, side)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    gap, font_size = side // 24, max(12, side // 26)
    font, title = ImageFont.load_default(font_size), ImageFont.load_default(round(font_size * 1.15))
    top, line = round(font_size * 2.2), round(font_size * 1.9)
    labels = list(zip(row["labels"], row["scores"], strict=True))
    height = top + max(size[1], line * min(len(labels), MAX_LABELS + 1)) + gap
    width = 2 * size[0] + side + 4 * gap
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    lefts = [gap, size[0] + 2 * gap, 2 * size[0] + 3 * gap]
    for left, panel_width, text in zip(lefts, (*size[:1] * 2, side), ("photo", "regions", "labels"), strict=True):
        draw.text((left + panel_width / 2, top / 2), text, fill=INK, font=title, anchor="mm")
    for left, picture in zip(lefts, (image.convert("RGB"), overlay), strict=False):
        canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
        draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), outline=INK)
    regions = [region["label"] for region in labeled_regions(row)]
    colors = dict(zip(regions, colors_of(regions), strict=True))
    for number, (label, score) in enumerate(labels[:MAX_LABELS]):
        y = top + number * line
        color = colors.get(label, WITHOUT_REGION)
        text = f"{score:.2f}" + (" given" if label == row["label"] else "")
        draw.text((lefts[2] + side, y), text, fill=FAINT_INK, font=font, anchor="ra")
        name = fit_text(class_names[label], font, side - font.getlength(text) - gap)
        draw.text((lefts[2], y), name, fill=INK, font=font)
        bar = y + round(font_size * 1.3)
        draw.rectangle((lefts[2], bar, lefts[2] + side, bar + font_size // 4), fill=(232, 232, 234))
        draw.rectangle((lefts[2], bar, lefts[2] + round(side * score), bar + font_size // 4), fill=color)
    if len(labels) > MAX_LABELS:
        text = f"and {len(labels) - MAX_LABELS} more"
        draw.text((lefts[2], top + MAX_LABELS * line), text, fill=FAINT_INK, font=font)
    return canvas
