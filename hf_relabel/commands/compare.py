"""Compare the pipeline's proposals, or its labels, with their alternatives on your own images with known truth.

hf-relabel compare proposals --images photos --truth instances.json
hf-relabel compare labels runs/relabel --truth truth.jsonl
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hf_relabel.commands.parser import Command, option
from hf_relabel.config import BackboneConfig, Config, ProposeConfig, RunConfig, SourceConfig
from hf_relabel.errors import UsageError

if TYPE_CHECKING:
    from hf_relabel.comparison.generators import Generator
    from hf_relabel.comparison.proposals import Comparison
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
    *(f"propose.{key}" for key in ("tau", "max_masks", "merge_masks", "solver", "masks", "masks_orientation")),
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
    )
}
