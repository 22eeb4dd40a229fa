"""A static page that shows a release: photos with their masks, labels and scores, without a server or a network.

    gallery/
      index.html  gallery.css  *.js    the page; it opens from the file system
      data/index.js                    one short row per image, for filters and sorting
      data/regions-00000.js            masks and details of `CHUNK` images each, read when one of them is opened
      thumbs/  photos/                 small and larger copies of the photos, made once

The data are JavaScript files because a page in the file system may not read any other kind. All of it is JSON of plain
values; the page shows text only as text, never as HTML.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_relabel.errors import OutputError
from hf_relabel.release.reader import Release
from hf_relabel.review.corrections import proposal_number
from hf_relabel.review.photos import Copy, Photos, fitted, make_copies
from hf_relabel.review.run_details import ImageDetails, describe_target, read_details
from hf_relabel.run.store import atomic_open, cannot_write
from hf_relabel.vision import masks

CHUNK = 100
"""Images per file of regions."""

TOP_CLASSES = 5

INDEX = "index.html"
PAGE_FILES = (INDEX, "gallery.css", "masks.js", "filters.js", "detail.js", "review.js", "gallery.js")

COLUMNS = ["image_id", "label", "labels", "scores", "label_score", "width", "height", "regions"]


@dataclass
class GalleryReport:
    """What a gallery shows.

    Args:
        index: The page.
        images: Photos in it.
        total: Images of the release.
        unreadable: Number of images by the reason why their photo cannot be shown.
        has_run: Whether the run's own details (windows, training targets, labels not listed) are in it.
    """

    index: Path
    images: int = 0
    total: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    has_run: bool = False


def write_gallery(
    release: Release,
    photos: Photos,
    folder: Path,
    *,
    image_ids: set[str] | None = None,
    truth: Mapping[str, list[int]] | None = None,
    review: dict[str, Any] | None = None,
) -> GalleryReport:
    """Write the page and its files; copies of photos that are there already are kept.

    Args:
        release: The release.
        photos: Its photos.
        folder: Folder of the page; only files of an older page are replaced.
        image_ids: The images to show; None shows all.
        truth: True labels by image id, for images that have any.
        review: The sample to review (`review/sample.py`); None for a page that only shows.

    Raises:
        OutputError: The folder contains other files, or cannot be written.
    """
    _prepare(folder)
    rows = _joined(release, image_ids, read_details(release))
    report = GalleryReport(folder / INDEX, total=release.num_images)
    index: list[list[Any]] = []
    chunk: list[dict[str, Any]] = []
    try:
        for row, details, copy in _with_copies(rows, photos, folder):
            report.has_run |= details is not None
            if copy.error is not None:
                reason = copy.error.removeprefix(f"{copy.image_id}: ")
                report.unreadable[reason] = report.unreadable.get(reason, 0) + 1
            index.append(_index_row(row, details, copy, truth.get(row["image_id"]) if truth else None))
            chunk.append(_regions_row(row, details, release.class_names))
            if len(chunk) == CHUNK:
                _write_script(folder / "data" / f"regions-{len(index) // CHUNK - 1:05d}.js", "chunk", chunk)
                chunk = []
        if chunk:
            _write_script(folder / "data" / f"regions-{len(index) // CHUNK:05d}.js", "chunk", chunk)
        report.images = len(index)
        head = {
            "name": release.name,
            "version": release.version,
            "classes": release.class_names,
            "chunk": CHUNK,
            "total": release.num_images,
            "has_truth": truth is not None,
            "has_run": report.has_run,
            "review": review,
            "rows": index,
        }
        _write_script(folder / "data" / "index.js", "index", head)
        for name in PAGE_FILES:
            with atomic_open(folder / name) as file:
                file.write(_page_file(name))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return report


def _prepare(folder: Path) -> None:
    """Make the folder, and remove the data of an older page in it."""
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and (not folder.is_dir() or (others and INDEX not in others and "data" not in others)):
        raise OutputError(f"{folder}: exists and is not a gallery; choose another --out")
    try:
        shutil.rmtree(folder / "data", ignore_errors=True)
        (folder / "data").mkdir(parents=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _page_file(name: str) -> bytes:
    return (files("hf_relabel.review") / "page" / name).read_bytes()


def _write_script(path: Path, function: str, value: Any) -> None:
    # ASCII, so that a line separator in a name cannot end the line of a script.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    with atomic_open(path, "w") as file:
        file.write(f"GALLERY.{function}({text});\n")


Joined = tuple[dict[str, Any], ImageDetails | None]


def _joined(
    release: Release, wanted: set[str] | None, details: Iterator[tuple[str, ImageDetails]] | None
) -> Iterator[Joined]:
    """The wanted rows of the release, each with what its run knows.

    Both are in the same order, but a run may have images that the release excludes, and a release may have splits of
    an earlier one.
    """
    released = {row["image_id"] for row in release.rows("labels", ["image_id"])} if details else set()
    known: tuple[str, ImageDetails] | None = None
    for row in release.rows("regions", COLUMNS):
        while details is not None and (known is None or known[0] not in released):
            known = next(details, None)
            if known is None:
                details = None
        found = None
        if known is not None and known[0] == row["image_id"]:
            found, known = known[1], None
        if wanted is None or row["image_id"] in wanted:
            yield row, found


def _with_copies(
    rows: Iterable[Joined], photos: Photos, folder: Path
) -> Iterator[tuple[dict[str, Any], ImageDetails | None, Copy]]:
    """Make the copies of a chunk of photos at a time, so that memory does not grow with the release."""
    held: list[Joined] = []

    def flush() -> Iterator[tuple[dict[str, Any], ImageDetails | None, Copy]]:
        copies = make_copies(photos, [row["image_id"] for row, _ in held], folder)
        for (row, details), copy in zip(held, copies, strict=True):
            yield row, details, copy
        held.clear()

    for item in rows:
        held.append(item)
        if len(held) == CHUNK:
            yield from flush()
    yield from flush()


def _index_row(row: dict[str, Any], details: ImageDetails | None, copy: Copy, truth: list[int] | None) -> list[Any]:
    """An image for the list: id, file, given label, labels, scores, label_score, wrong, missing, region labels, truth.

    `wrong` and `missing` are the expected numbers of wrong labels and of missing ones, by the scores.
    """
    added = [score for label, score in zip(row["labels"], row["scores"], strict=True) if label != row["label"]]
    doubt = 0.0 if row["label_score"] is None or row["label"] not in row["labels"] else 1 - row["label_score"]
    listed = set(row["labels"]) | {row["label"]}
    candidates = details.candidates if details else {region["label"]: region["score"] for region in row["regions"]}
    missing = sum(score for label, score in candidates.items() if label not in listed)
    return [
        row["image_id"],
        copy.name,
        row["label"],
        row["labels"],
        _rounded(row["scores"]),
        None if row["label_score"] is None else round(row["label_score"], 4),
        round(sum(1 - score for score in added) + doubt, 4),
        round(missing, 4),
        sorted({region["label"] for region in row["regions"]}),
        truth,
    ]


def _regions_row(row: dict[str, Any], details: ImageDetails | None, names: list[str]) -> dict[str, Any]:
    """The details of an image: its size on the page, its regions, its windows, and labels that are not listed."""
    size = fitted(row["width"], row["height"])
    trained = details.trained if details else {}
    regions = []
    for region in row["regions"]:
        target = trained.get(f"{row['image_id']}#{proposal_number(region['region_id'], row['image_id'])}")
        regions.append(
            {
                "id": region["region_id"],
                "label": region["label"],
                "score": round(region["score"], 4),
                "top": _top(region["top_labels"], region["top_scores"]),
                "generator": region["generator"],
                "trained": describe_target(*target, names) if target else "",
                "counts": _resized(region["segmentation"], size),
            }
        )
    found: dict[str, Any] = {"size": size, "regions": regions}
    if details is not None:
        listed = set(row["labels"])
        others = sorted(
            ((label, score) for label, score in details.candidates.items() if label not in listed and score >= 0.01),
            key=lambda item: -item[1],
        )
        found["others"] = [[label, round(score, 4)] for label, score in others[:TOP_CLASSES]]
        found["windows"] = [
            [label, round(score, 4), describe_target(target, reason, names)]
            for label, score, target, reason in details.windows
        ]
    return found


def _top(labels: list[int], scores: list[float]) -> list[list[Any]]:
    return [[label, round(score, 4)] for label, score in list(zip(labels, scores, strict=True))[:TOP_CLASSES]]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _resized(segmentation: dict[str, Any], size: tuple[int, int]) -> str:
    """The run lengths of a mask at the size of the page's photo."""
    if tuple(segmentation["size"]) == (size[1], size[0]):
        return str(segmentation["counts"])
    picture = Image.fromarray(masks.decode(segmentation).astype(np.uint8) * 255)
    return str(masks.encode(np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) > 127)["counts"])
