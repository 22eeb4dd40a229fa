"""Compare the pipeline's proposals, or its labels, with their alternatives on your own images with known truth.

hf-relabel compare proposals --images photos --truth instances.json
hf-relabel compare labels runs/relabel --truth truth.jsonl
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hf_relabel.commands.arguments import TruthSettings
from hf_relabel.commands.options import Command, option, positional
from hf_relabel.commands.parser import parse
from hf_relabel.commands.pipeline import COMMANDS as PIPELINE
from hf_relabel.config import BackboneConfig, Config, ProposeConfig, RunConfig, SourceConfig
from hf_relabel.errors import RelabelError, UsageError

if TYPE_CHECKING:
    from hf_relabel.comparison.crops import Encoder
    from hf_relabel.comparison.generators import Generator
    from hf_relabel.comparison.labels import LabelComparison
    from hf_relabel.comparison.proposals import Comparison
    from hf_relabel.review.photos import Photos
    from hf_relabel.sources.hierarchy import Hierarchy
    from hf_relabel.sources.source import Source

GENERATORS = "maskcut,merge,maskcut+merge,tokencut"


@dataclass(frozen=True, kw_only=True)
class ProposalsSettings:
    """Comparison.

    Args:
        images: Image folder; images may be anywhere below it.
        truth: True objects: a .jsonl file with `image_id` and `objects`, COCO's .json, or a folder of YOLO's .txt files
            with polygons or boxes.
        generators: Generators that work on the backbone's patches, separated by commas; `none` for none of them.
        sam2: SAM 2 checkpoint, a folder or Hub id: adds its automatic masks with two settings.
        sam2_revision: Branch, tag or commit of the SAM 2 checkpoint.
        limit: Use only the first images in the order of their ids.
        sheet: Contact sheet to write: some images with the masks of every generator.
        json: Write all numbers to this file as JSON.
        backbone: The backbone of the pipeline.
        propose: Settings of the generators; `propose.masks` adds the masks of a COCO JSON file.
    """

    images: str | None = option(None, "FOLDER")
    truth: str | None = option(None, "FILE")
    generators: str = option(GENERATORS, "NAMES")
    sam2: str | None = option(None, "MODEL")
    sam2_revision: str | None = option(None, "REVISION")
    limit: int | None = None
    sheet: Path | None = option(Path("proposals.png"), "FILE.png")
    json: str | None = option(None, "FILE.json")
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)

    def __post_init__(self) -> None:
        if not self.images or not self.truth:
            raise UsageError("compare proposals: give the images with --images and their objects with --truth")
        unknown = set(self.names) - set(GENERATORS.split(","))
        if unknown:
            raise UsageError(f"--generators: no generator {min(unknown)!r}; there are {GENERATORS}")
        if not self.names and not self.sam2 and not self.propose.masks:
            raise UsageError("compare proposals: nothing to compare; name --generators, --sam2 or --propose.masks")

    @property
    def names(self) -> list[str]:
        """The generators that work on the backbone's patches."""
        return [] if self.generators == "none" else self.generators.split(",")


def run_proposals(settings: ProposalsSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.comparison.objects import read_objects
    from hf_relabel.comparison.proposals import compare_proposals
    from hf_relabel.evaluation.report import plain, refuse_unwritable, write_results
    from hf_relabel.run.progress import progress_bar
    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.run.ranks import current_rank
    from hf_relabel.sources.path import check_source_path
    from hf_relabel.sources.source import open_source

    refuse_unwritable(settings.json, str(settings.sheet) if settings.sheet else None)
    config = SourceConfig(path=settings.images or "", labeled=False, limit=settings.limit)
    check_source_path(config, option="--images")
    objects = read_objects(settings.truth or "")
    source = open_source(config)
    quiet_libraries()
    rank = current_rank(RunConfig())
    dropped: Counter[str] = Counter()
    generators = _generators(settings, source, dropped)
    with progress_bar(sum(map(objects.has, source.image_ids)), "compare", "images", rank) as bar:
        found = compare_proposals(source, objects, generators, settings.sheet, bar.update)
    print(describe_proposals(found))
    for reason, count in [*objects.left_out.items(), *dropped.items()]:
        print(f"left out: {count} {reason}")
    if settings.sheet:
        print(f"pictures: {settings.sheet}")
    if settings.json:
        write_results(settings.json, plain(found))
    return 0


def _generators(settings: ProposalsSettings, source: "Source", dropped: Counter[str]) -> "dict[str, Generator]":
    from hf_relabel.comparison.generators import FileGenerator, Patches, PatchGenerator, Sam2Generator
    from hf_relabel.formats.given_masks import GivenMasks
    from hf_relabel.run.ranks import current_rank
    from hf_relabel.vision.families import resolve
    from hf_relabel.vision.pair import load_backbone
    from hf_relabel.vision.sam2 import SETTINGS, Sam2

    device = current_rank(RunConfig()).device
    generators: dict[str, Generator] = {}
    if settings.names:
        config = resolve(Config(backbone=settings.backbone, propose=settings.propose))
        patches = Patches(load_backbone(config.backbone, device))
        generators |= {name: PatchGenerator(name, patches, config.propose) for name in settings.names}
    if settings.sam2:
        model = Sam2.load(settings.sam2, settings.sam2_revision, device)
        generators |= {name: Sam2Generator(model, each) for name, each in SETTINGS.items()}
    if settings.propose.masks:
        given = GivenMasks.open(settings.propose.masks, source.image_ids, settings.propose.masks_orientation)
        given.warn_of_left_out()
        generators["file"] = FileGenerator(given, dropped)
    return generators


@dataclass(frozen=True, kw_only=True)
class LabelsSettings:
    """Comparison.

    Args:
        run: Folder of a run whose `propose` stage is complete.
        truth: True labels.
        label_maps: Folder with ReLabel's label maps; by default they are made by a classifier that is fitted to the
            given labels of whole images.
        images: Folder of the images, for masked crops; by default those of the run.
        crops: Classify masked crops as well: a forward pass of the backbone for each image and each proposal.
        crop_model: Image classifier of transformers, a folder or Hub id, whose features describe crops; by default the
            run's backbone.
        crop_size: Side in pixels of crops, and of whole images that they are compared with.
        parents: File with lines `child<TAB>parent` of class names, or `wordnet`: also compare along this hierarchy,
            where a parent counts at its level.
        seed: Seed of all random numbers.
        json: Write all numbers to this file as JSON.
    """

    run: Path = positional("RUN")
    truth: TruthSettings
    label_maps: Path | None = option(None, "FOLDER")
    images: Path | None = option(None, "FOLDER")
    crops: bool = True
    crop_model: str | None = option(None, "MODEL")
    crop_size: int = 224
    parents: str | None = option(None, "FILE.tsv|wordnet")
    seed: int = 0
    json: str | None = option(None, "FILE.json")

    def __post_init__(self) -> None:
        if not self.truth.truth:
            raise UsageError("compare labels: give the true labels with --truth")


def run_labels(settings: LabelsSettings) -> int:
    """Run the command; returns the exit status."""
    import sys
    import tempfile

    from hf_relabel.comparison.labels import compare_labels
    from hf_relabel.evaluation.report import plain, refuse_unwritable, write_results
    from hf_relabel.run.quiet import quiet_libraries

    refuse_unwritable(settings.json)
    truth = settings.truth.read()
    quiet_libraries()
    photos, encoder, why_not = _crops(settings)
    hierarchy = _hierarchy(settings)
    with tempfile.TemporaryDirectory() as work:
        found = compare_labels(
            settings.run,
            truth,
            Path(work),
            label_maps=settings.label_maps,
            photos=photos,
            encoder=encoder,
            hierarchy=hierarchy,
            seed=settings.seed,
            tick=lambda name: print(f"{name} ...", file=sys.stderr, flush=True),
        )
    if why_not:
        found.left_out["masked crops"] = why_not
    print(describe_labels(found))
    if settings.json:
        write_results(settings.json, plain(found))
    return 0


def _hierarchy(settings: LabelsSettings) -> "Hierarchy | None":
    """The parents of the run's classes, if they are wanted."""
    from hf_relabel.run.snapshot import Snapshot
    from hf_relabel.sources.hierarchy import read_hierarchy

    snapshot = Snapshot.load(settings.run)
    return read_hierarchy(settings.parents, snapshot.class_names) if settings.parents and snapshot else None


def _crops(settings: LabelsSettings) -> "tuple[Photos | None, Encoder | None, str]":
    """What masked crops need, or why they are left out."""
    from hf_relabel.comparison.crops import BackboneEncoder, ClassifierEncoder
    from hf_relabel.review.photos import photos_in_folder, photos_of_source
    from hf_relabel.run.ranks import current_rank
    from hf_relabel.run.snapshot import Snapshot
    from hf_relabel.stages.pipeline import CONFIG_FILE
    from hf_relabel.vision.pair import load_backbone

    if not settings.crops:
        return None, None, "not wanted (--no-crops)"
    device = current_rank(RunConfig()).device
    name, size = settings.crop_model, settings.crop_size
    given = ClassifierEncoder.load(name, size, device) if name is not None else None
    try:
        config = parse(PIPELINE["run"], ["--config", str(settings.run / CONFIG_FILE)])
        snapshot = Snapshot.load(settings.run)
        if settings.images is not None:
            photos = photos_in_folder(settings.images)
        elif snapshot is not None:
            photos = photos_of_source(snapshot.open(config.source))
        else:
            return None, None, f"{settings.run}: has no list of images"
        if given is not None:
            return photos, given, ""
        backbone = dataclasses.replace(config.backbone, image_size=settings.crop_size)
        return photos, BackboneEncoder(load_backbone(backbone, device)), ""
    except RelabelError as error:
        return None, None, str(error)


def describe_labels(found: "LabelComparison") -> str:
    """Format a comparison of labels as text."""
    from hf_relabel.evaluation.report import render

    head = f"{found.images} images of {found.classes} classes, {found.missing} true labels were not given"
    header = ["labels", "F1", "best F1", "added", "precision", "calibration error", "coverage", "seconds"]
    given = ["the given labels alone", found.given_f1, None, 0, None, None, 0.0, None]
    rows = [
        [name, row.f1, row.best_f1, row.added, row.precision, row.calibration_error, row.coverage, f"{row.seconds:.1f}"]
        for name, row in found.rows.items()
    ]
    if found.given_rolled_f1 is not None:
        header.append("F1 with parents")
        given.append(found.given_rolled_f1)
        for line, row in zip(rows, found.rows.values(), strict=True):
            line.append(row.rolled_f1)
    lines = [f"left out: {name}: {reason}" for name, reason in found.left_out.items()]
    note = (
        "best F1 is that of the best threshold, which only the truth knows\n"
        "precision and calibration error are those of the added labels; seconds are those beyond `propose`"
    )
    return "\n\n".join([head, render(header, [given, *rows]), "\n".join([note, *lines])])


def describe_proposals(found: "Comparison") -> str:
    """Format a comparison of generators as text."""
    from hf_relabel.comparison.proposals import IOUS, SIZES
    from hf_relabel.evaluation.report import render

    what = "boxes" if found.by_boxes else "masks"
    sizes = ", ".join(f"{count} {name}" for name, count in found.objects.items())
    lines = [f"{found.images} images, {sum(found.objects.values())} objects ({sizes}), compared by their {what}"]
    lines += [f"left out: {count} images ({reason})" for reason, count in found.unread.items()]
    header = ["generator", "masks"]
    for iou in IOUS:
        header += [f"recall {iou:g}", *SIZES]
    header += ["label ceiling", "best overlap", "s/image"]
    table = render(header, [(name, *row.values()) for name, row in found.rows.items()])
    limits = [f"{name} from {low:.0%} of the image" for name, (low, _) in list(SIZES.items())[1:]]
    return "\n\n".join(["\n".join(lines), table, f"objects are {', '.join(limits)}; the others are small"])


READS = (
    *("images", "truth", "generators", "sam2", "sam2_revision", "limit", "sheet", "json", "backbone"),
    *(f"propose.{key}" for key in ("tau", "max_masks", "merge_masks", "masks", "masks_orientation")),
)

COMMANDS = {
    "compare proposals": Command(
        name="compare proposals",
        summary="generators of proposals: recall of true objects and labels, speed, pictures",
        settings=ProposalsSettings,
        run=run_proposals,
        description="Compare generators of proposals on the same images with true objects.",
        dotted=True,
        reads=READS,
        common=("images", "truth", "generators", "sam2", "sheet"),
    ),
    "compare labels": Command(
        name="compare labels",
        summary="ways to label: with masks and without, with a labeler and without",
        settings=LabelsSettings,
        run=run_labels,
        description="Label the images of a run in several ways, and compare the labels with the truth.",
        common=("truth", "images", "label_maps", "crops", "json"),
    ),
}
