"""Export a release as a folder for training YOLO segmentation models (Ultralytics' format).

    data.yaml                   splits (the first is `train`, the second `val`) and class names
    images/SPLIT/NAME.jpg       links to the images, or copies; only with the images' folder
    labels/SPLIT/NAME.txt       one line per region: class index, then the polygon's x and y relative to the image
    labels.csv, regions.csv     the scores, for which the format has no place (`score_files`)

An image's NAME is its id with `__` instead of `/`, because some readers do not look into subfolders. A region of
several parts is one polygon whose parts are connected by an edge there and back, as Ultralytics writes it.
"""

import contextlib
from pathlib import Path, PurePosixPath

import yaml

from hf_relabel.errors import FormatError, ReleaseError
from hf_relabel.formats.coco_export import Exported
from hf_relabel.formats.output import new_folder
from hf_relabel.formats.release_images import check_images, image_ids, place_image
from hf_relabel.formats.score_files import LABELS, REGIONS, ScoreFiles, all_rows, open_csv
from hf_relabel.release.reader import Release
from hf_relabel.sources.image_ids import is_safe
from hf_relabel.vision.masks import RLE, decode
from hf_relabel.vision.polygons import joined, polygons

CARRIES = (
    "Exported: one polygon and class per region; the scores of labels and regions in labels.csv and regions.csv. "
    "Not exported: the regions' other classes, label_score, name, version, provenance, excluded images."
)

DATA = "data.yaml"


def export_yolo(
    release: Release, folder: Path, *, images: Path | None = None, copy: bool = False, overwrite: bool = False
) -> Exported:
    """Write a release as a folder for YOLO, completely or not at all.

    Args:
        release: The release.
        folder: The folder to create.
        images: Folder of the release's images, to which `images/` links; None omits `images/`.
        copy: Copy the images instead of linking to them.
        overwrite: Replace an existing folder of this kind.

    Raises:
        FormatError: The folder exists, images are missing, two names are equal, or the folder cannot be written.
        ReleaseError: The release cannot be read.
    """
    contents = (DATA, "images", "labels", LABELS, REGIONS)
    counts = [0, 0, 0]
    with new_folder(folder, DATA, contents, overwrite) as staging, contextlib.ExitStack() as files:
        if images is not None:
            check_images(release, images)
        scores = ScoreFiles(
            files.enter_context(open_csv(staging / LABELS)),
            files.enter_context(open_csv(staging / REGIONS)),
            release.class_names,
        )
        for split in release.splits:
            if not is_safe(split) or "/" in split:
                raise ReleaseError(
                    f"{release.folder}: the split {split!a} is not a folder name; do not use this release"
                )
            part = release.only(split)
            names = _names(part)
            (staging / "labels" / split).mkdir(parents=True)
            for row in all_rows(part):
                name = names[row["image_id"]]
                path = PurePosixPath("labels", split, name).with_suffix(".txt")
                lines = [
                    f"{region['label']} {_relative(region['segmentation'], row['width'], row['height'])}\n"
                    for region in row["regions"]
                ]
                (staging / path).write_text("".join(lines), encoding="utf-8")
                scores.add(row, str(path))
                if images is not None:
                    place_image(images / row["image_id"], staging / "images" / split / name, copy)
                counts = [counts[0] + 1, counts[1] + len(row["labels"]), counts[2] + len(row["regions"])]
        (staging / DATA).write_text(_data(release), encoding="utf-8")
    return Exported(*counts)


def _names(release: Release) -> dict[str, str]:
    """File name of each image; each must give another file of labels."""
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for image_id in image_ids(release):
        name = image_id.replace("/", "__")
        stem = PurePosixPath(name).with_suffix("").name
        if stem in owners:
            raise FormatError(
                f"images {owners[stem]!r} and {image_id!r} would both have the labels {stem}.txt; rename one of them "
                "and relabel, or export COCO"
            )
        owners[stem] = image_id
        names[image_id] = name
    return names


def _relative(rle: RLE, width: int, height: int) -> str:
    """A mask as one polygon with coordinates from 0 to 1."""
    outline, *others = polygons(decode(rle))
    for other in others:
        outline = joined(outline, other)
    return " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in outline.tolist())


def _data(release: Release) -> str:
    train, *others = release.splits
    data = {
        # Ultralytics demands both; a release of one split has no other to judge a model on.
        "train": f"images/{train}",
        "val": f"images/{others[0] if others else train}",
        "nc": len(release.class_names),
        "names": list(release.class_names),
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
