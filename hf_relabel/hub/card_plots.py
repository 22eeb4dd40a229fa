"""Draw the pictures of a dataset card from a release's statistics and rows, as PNG files in memory."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_relabel.errors import HubError
from hf_relabel.pictures.charts import BLUE, INK, ORANGE, PAPER, Chart
from hf_relabel.pictures.overlays import contact_sheet, draw_row, fit_text
from hf_relabel.release.reader import Release

SAMPLES, COLUMNS, CELL = 12, 3, 320
"""Gallery: number of pictures, pictures per row, and side of each in pixels."""

MAX_BARS = 15
"""Maximum number of bars in a chart of classes or label pairs."""


def card_pictures(release: Release, images: Path | None = None) -> dict[str, bytes]:
    """Draw all pictures of the card, by their paths in the repository.

    Args:
        release: The release.
        images: Folder of the source's images, if they may be shown; otherwise the gallery shows outlines only.

    Raises:
        HubError: An image for the gallery is not in `images`.
    """
    statistics = release.statistics
    return {
        "card/labels_per_image.png": _labels_per_image(statistics),
        "card/added_classes.png": _added_classes(statistics, release.class_names),
        "card/label_pairs.png": _label_pairs(statistics, release.class_names),
        "card/scores.png": _scores(statistics),
        "card/gallery.png": _gallery(release, images),
    }


def _labels_per_image(statistics: dict[str, Any]) -> bytes:
    counts = {int(key): value for key, value in statistics["labels_per_image"].items()}
    shown = max([*counts, 1]) + 1 if max([*counts, 0]) < 10 else 11
    heights = [counts.get(value, 0) for value in range(shown)]
    heights[-1] += sum(value for key, value in counts.items() if key >= shown)
    top = _round_up(max(heights))
    chart = Chart("Labels per image", "labels", "images", (-0.5, shown - 0.5), (0, top))
    chart.y_ticks(*_counts_axis(top))
    chart.bars([x - 0.4 for x in range(shown)], [x + 0.4 for x in range(shown)], heights)
    more = max([*counts, 0]) >= shown
    chart.x_ticks(range(shown), [f"{x}+" if more and x == shown - 1 else str(x) for x in range(shown)])
    return _saved(chart)


def _scores(statistics: dict[str, Any]) -> bytes:
    original, added = np.array(statistics["scores_original"]), np.array(statistics["scores_added"])
    edges = np.linspace(0, 1, len(original) + 1)
    top = _round_up(int(1.2 * (original + added).max()))  # room for the legend
    chart = Chart("Scores of the labels", "score", "labels", (0, 1), (0, top))
    chart.y_ticks(*_counts_axis(top))
    chart.bars(edges[:-1].tolist(), edges[1:].tolist(), (original + added).tolist(), BLUE)
    chart.bars(edges[:-1].tolist(), edges[1:].tolist(), added.tolist(), ORANGE)
    chart.x_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    chart.legend("original labels", BLUE)
    chart.legend("added labels", ORANGE)
    return _saved(chart)


def _added_classes(statistics: dict[str, Any], class_names: Sequence[str]) -> bytes:
    counts = np.array(statistics["added_per_class"])
    order = [int(label) for label in np.argsort(-counts, kind="stable")[:MAX_BARS] if counts[label]]
    return _rows("Most frequently added classes", [((class_names[label],), int(counts[label])) for label in order])


def _label_pairs(statistics: dict[str, Any], class_names: Sequence[str]) -> bytes:
    pairs = statistics["label_pairs"][:MAX_BARS]
    named = [((class_names[a], class_names[b]), count) for a, b, count in pairs]
    return _rows("Most frequent label pairs", named, left=430, width=840)


def _rows(title: str, rows: Sequence[tuple[tuple[str, ...], int]], left: int = 310, width: int = 720) -> bytes:
    """A chart of horizontal bars, with (shortened) names on the left and the count on the right."""
    font, pitch, top = ImageFont.load_default(size=13), 24, 44
    image = Image.new("RGB", (width, top + pitch * max(1, len(rows)) + 16), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, 8), title, INK, ImageFont.load_default(size=15), anchor="ma")
    if not rows:
        draw.text((width / 2, top + pitch / 2), "none", INK, font, anchor="mm")
    longest = max((count for _, count in rows), default=1)
    for row, (names, count) in enumerate(rows):
        y = top + pitch * row
        room = (left - 20 - font.getlength(" + ") * (len(names) - 1)) / len(names)
        text = " + ".join(fit_text(name, font, room) for name in names)
        right = left + (width - left - 90) * count / longest
        draw.rectangle([left, y + 3, max(left + 1, right), y + pitch - 5], fill=ORANGE)
        draw.text((left - 8, y + pitch / 2), text, INK, font, anchor="rm")
        draw.text((right + 6, y + pitch / 2), f"{count:,}", INK, font, anchor="lm")
    return _png(image)


def _gallery(release: Release, images: Path | None) -> bytes:
    rows = list(sample_rows(release))
    if not rows:
        return _rows("Samples", [])
    pages = [_blank_page(row) if images is None else shown_image(images, row["image_id"]) for row in rows]
    pictures = [draw_row(page, row, release.class_names, CELL) for page, row in zip(pages, rows, strict=True)]
    captions = [[row["image_id"], *_captions(row, release.class_names)] for row in rows]
    return _png(contact_sheet(pictures, captions, columns=COLUMNS, cell=CELL))


def _captions(row: dict[str, Any], class_names: Sequence[str]) -> list[str]:
    """The first labels of a row with their scores; long names are shortened."""
    font = ImageFont.load_default(CELL // 20)  # the font size of a contact sheet
    lines = []
    for label, score in list(zip(row["labels"], row["scores"], strict=True))[:4]:
        text = f" {score:.2f}"
        lines.append(fit_text(class_names[label], font, CELL - font.getlength(text)) + text)
    return lines


def _blank_page(row: dict[str, Any]) -> Image.Image:
    """A blank page with the image's size, to draw its regions without the source's pixels."""
    return Image.new("RGB", (max(1, row["width"]), max(1, row["height"])), PAPER)


def sample_rows(release: Release) -> Iterator[dict[str, Any]]:
    """Choose rows for the gallery, spread over the release: from each part, the image with the most labels."""
    files = release.files_of("regions")
    left = min(SAMPLES, release.num_images)
    for index, file in enumerate(files):
        share = -(-left // (len(files) - index))
        if not share or not file.rows:
            continue
        batch = next(release.batches_of(file), None)
        if batch is None:
            continue
        labels = batch["labels"].value_lengths().to_numpy()
        for stretch in np.array_split(np.arange(len(batch)), min(share, len(batch))):
            best = stretch[np.argmax(labels[stretch])]
            yield batch.slice(int(best), 1).to_pylist()[0]
            left -= 1


def shown_image(images: Path, image_id: str) -> Image.Image:
    """Read an image of the source, upright.

    Raises:
        HubError: It is not in the folder or cannot be read.
    """
    from PIL import ImageOps, UnidentifiedImageError

    path = (images / image_id).resolve()
    if not path.is_relative_to(images.resolve()):
        raise HubError(f"gallery: image {image_id!r} is outside {images}; do not use this release")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise HubError(f"gallery: cannot read {path} ({error}); give the folder of the source's images") from error


def _round_up(value: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `value`."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= value:
                return factor * step
        step *= 10


def _counts_axis(top: int) -> tuple[list[float], list[str]]:
    values: list[float] = [0, top / 2, top] if top > 1 else [0, 1]
    return values, [f"{value:,.0f}" if value == int(value) else f"{value:g}" for value in values]


def _saved(chart: Chart) -> bytes:
    buffer = io.BytesIO()
    chart.save(buffer)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
