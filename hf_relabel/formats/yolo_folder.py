"""Export a release as a folder for training YOLO segmentation models (Ultralytics' format).

    data.yaml                   split and class names
    images/SPLIT/NAME.jpg       links to the images, or copies; only with the images' folder
    labels/SPLIT/NAME.txt       one line per region: class index, then the polygon's x and y relative to the image
    labels.csv, regions.csv     the scores, for which the format has no place (`score_files`)

An image's NAME is its id with `__` instead of `/`, because some readers do not look into subfolders. A region of
several parts is one polygon whose parts are connected by an edge there and back, as Ultralytics writes it.
"""

import contextlib
from pathlib import Path, PurePosixPath

import yaml

from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_export import Exported
from hf_relabel.formats.output import new_folder
from hf_relabel.formats.release_images import check_images, image_ids, place_image
from hf_relabel.formats.score_files import LABELS, REGIONS, ScoreFiles, all_rows, open_csv
from hf_relabel.release.reader import Release
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
        ReleaseError: The release cannot be read, or an image id leads out of a folder.
    """
    contents = (DATA, "images", "labels", LABELS, REGIONS)
    with new_folder(folder, DATA, contents, overwrite) as staging, contextlib.ExitStack() as files:
        names = _names(release)
        if images is not None:
            check_images(release, images)
        labels = staging / "labels" / release.split
        labels.mkdir(parents=True)
        scores = ScoreFiles(
            files.enter_context(open_csv(staging / LABELS)),
            files.enter_context(open_csv(staging / REGIONS)),
            release.class_names,
        )
        counts = [0, 0, 0]
        for row in all_rows(release):
            image_id = row["image_id"]
            path = labels / PurePosixPath(names[image_id]).with_suffix(".txt")
            lines = [
                f"{region['label']} {_relative(region['segmentation'], row['width'], row['height'])}\n"
                for region in row["regions"]
            ]
            path.write_text("".join(lines), encoding="utf-8")
            scores.add(row, path.name)
            if images is not None:
                place_image(images / image_id, staging / "images" / release.split / names[image_id], copy)
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
    data = {
        # Ultralytics demands both; give a held-out part as `val` before judging a model.
        "train": f"images/{release.split}",
        "val": f"images/{release.split}",
        "nc": len(release.class_names),
        "names": list(release.class_names),
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
