"""Write a release as the paper's TSV, as COCO JSON, or as a folder for FiftyOne.

hf-relabel export coco runs/demo/release annotations.json
"""

import argparse
from pathlib import Path

RELEASE_HELP = "release folder, or user/name@revision on the Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    tsv = formats.add_parser(
        "tsv",
        help="the paper's labels, one line an image",
        description="One line an image: file, original class, classes, probabilities to 4 places. No masks.",
    )
    tsv.add_argument("release", help=RELEASE_HELP)
    tsv.add_argument("output", type=Path, metavar="FILE.tsv")
    coco = formats.add_parser(
        "coco",
        help="COCO JSON with RLE masks; `import coco` makes the same release of it",
        description="One COCO JSON file with everything a release holds. Its category ids are the class indices + 1; "
        "what COCO has no field for is in further fields of images and annotations.",
    )
    coco.add_argument("release", help=RELEASE_HELP)
    coco.add_argument("output", type=Path, metavar="FILE.json")
    fiftyone = formats.add_parser(
        "fiftyone",
        help="a folder that FiftyOne's COCODetectionDataset importer reads",
        description="A folder with labels.json and, with --images, data/. Without --images there is no data/: give "
        "FiftyOne the images' own folder as data_path, as the command shows when it has ended.",
    )
    fiftyone.add_argument("release", help=RELEASE_HELP)
    fiftyone.add_argument("output", type=Path, metavar="FOLDER")
    fiftyone.add_argument("--images", type=Path, metavar="FOLDER", help="the images; data/ links to them")
    fiftyone.add_argument("--copy", action="store_true", help="copy the images into data/ instead")
    for each in (tsv, coco, fiftyone):
        each.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.errors import UsageError
    from hf_relabel.formats import coco_export, fiftyone_folder, paper_tsv
    from hf_relabel.hub.client import open_release

    if args.format == "fiftyone" and args.copy and args.images is None:
        raise UsageError("--copy: name the folder of the images with --images")
    release = open_release(args.release)
    if args.format == "tsv":
        exported = paper_tsv.export_tsv(release, args.output, overwrite=args.overwrite)
        carries = paper_tsv.CARRIES
    elif args.format == "coco":
        exported = coco_export.export_coco(release, args.output, overwrite=args.overwrite)
        carries = coco_export.CARRIES
    else:
        exported = fiftyone_folder.export_fiftyone(
            release, args.output, images=args.images, copy=args.copy, overwrite=args.overwrite
        )
        carries = fiftyone_folder.CARRIES
    regions = "" if args.format == "tsv" else f", {exported.regions:,} regions"
    print(f"{args.output}: {exported.images:,} images, {exported.labels:,} labels{regions}")
    print(carries)
    if args.format == "fiftyone":
        print(_how_to_load(args))
    return 0


def _how_to_load(args: argparse.Namespace) -> str:
    where = f"dataset_dir={str(args.output)!r}"
    if args.images is None:
        where = f"data_path='FOLDER OF THE IMAGES', labels_path={str(args.output / 'labels.json')!r}"
    return f"fiftyone.Dataset.from_dir(dataset_type=fiftyone.types.COCODetectionDataset, {where})"
