"""Make a release, or a run's proposals, from the paper's TSV, COCO JSON or ReLabel's files.

hf-relabel import tsv labels.tsv runs/paper/release
"""

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    tsv = formats.add_parser(
        "tsv",
        help="a release from the paper's labels",
        description="A release from lines of file, original class, classes and probabilities. It has no regions, and "
        "the images' sizes are unknown: 0.",
    )
    tsv.add_argument("input", type=Path, metavar="FILE.tsv")
    coco = formats.add_parser(
        "coco",
        help="the release that `export coco` wrote",
        description="The release in a file of `hf-relabel export coco`, equal row by row.",
    )
    coco.add_argument("input", type=Path, metavar="FILE.json")
    relabel = formats.add_parser(
        "relabel",
        help="a release of image-level labels from ReLabel's label maps",
        description="A release from <class folder>/<image name>.pt. An image's labels are the classes whose "
        "probability, the softmax of the logits' mean over all places of its map, is at least the threshold. It has "
        "no regions, and the images' sizes are unknown: 0.",
    )
    relabel.add_argument("input", type=Path, metavar="FOLDER")
    relabel.add_argument("--threshold", type=float, default=0.1, help="least probability of a label (default: 0.1)")
    relabel.add_argument("--top-k", type=int, default=5, help="most labels of an image (default: 5)")
    relabel.add_argument(
        "--image-suffix", default=".JPEG", help="what the images end with in the place of .pt (default: .JPEG)"
    )
    for each in (tsv, coco, relabel):
        each.add_argument("release", type=Path, metavar="RELEASE", help="release folder to make")
    for each in (tsv, relabel):
        each.add_argument(
            "--class-names",
            metavar="FILE",
            help="the classes, one a line (.txt), or folder and name (.tsv); default: ImageNet-1k's",
        )
    for each, otherwise in ((tsv, "1.0.0"), (coco, "the file's"), (relabel, "1.0.0")):
        each.add_argument("--version", help=f"version of the release (default: {otherwise})")
        stem = otherwise if each is coco else "the input's name"
        each.add_argument("--name", help=f"pretty name of the dataset (default: {stem})")
        each.add_argument("--split", help=f"name of the split (default: {otherwise if each is coco else 'train'})")
        each.add_argument("--overwrite", action="store_true", help="replace a release that is there")
    proposals = formats.add_parser(
        "proposals",
        help="a run's proposals from masks in COCO JSON, as CutLER and MaskCut write it",
        description="The stage `propose` of a run with the masks of a file in the place of MaskCut's: the backbone "
        "pools its features under them, and score, train, label and build (or run) go on from there. The file's "
        "file_name is the image's path below source.path; categories are not used.",
    )
    proposals.add_argument("input", metavar="FILE.json", help="a COCO object, or a list of annotations with file_name")
    proposals.add_argument(
        "settings",
        nargs=argparse.REMAINDER,
        metavar="--config FILE.yaml --section.key VALUE",
        help="the run's settings, as for `hf-relabel propose`",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return _import_proposals(args) if args.format == "proposals" else _import_release(args)


def _import_release(args: argparse.Namespace) -> int:
    from hf_relabel.formats.coco_import import import_coco
    from hf_relabel.formats.paper_tsv import import_tsv
    from hf_relabel.formats.releases import Names

    given = {key: getattr(args, key) for key in ("version", "name", "split")}
    if args.format == "coco":
        imported = import_coco(args.input, args.release, **given, overwrite=args.overwrite)
    else:
        named = {"name": args.input.resolve().stem} | {key: value for key, value in given.items() if value is not None}
        common = {"names": Names(**named), "class_names": args.class_names, "overwrite": args.overwrite}
        if args.format == "tsv":
            imported = import_tsv(args.input, args.release, **common)
        else:
            # Here, as it brings torch, which the others do without.
            from hf_relabel.formats.relabel_maps import import_label_maps

            settings = {"threshold": args.threshold, "top_k": args.top_k, "image_suffix": args.image_suffix}
            imported = import_label_maps(args.input, args.release, **settings, **common)
    print(f"{args.release}: " + ", ".join(f"{number:,} {what}" for what, number in imported.facts.items()))
    for reason, number in imported.left_out.items():
        if number:
            print(f"left out: {number:,} {reason}")
    if args.format == "tsv":
        print("The TSV carries no regions, and no sizes: width and height are 0.")
    elif args.format == "relabel":
        print("Label maps carry no regions, and no sizes: width and height are 0.")
    return 0


def _import_proposals(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from hf_relabel.cli import parse_config
    from hf_relabel.stages.pipeline import CONFIG_FILE, run_command

    config = parse_config("propose", args.settings)
    if config is None:  # the settings asked for help
        return 0
    config = replace(config, propose=replace(config.propose, masks=args.input))
    is_main = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`; the stage takes it out of the environment
    status = run_command("propose", config)
    if is_main:
        print(f"go on with: hf-relabel run --config {Path(config.run.dir) / CONFIG_FILE}")
    return status
