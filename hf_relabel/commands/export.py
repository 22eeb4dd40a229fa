"""Write a release as the paper's TSV, as COCO JSON, or as a folder for FiftyOne, YOLO or Label Studio.

hf-relabel export coco runs/demo/release annotations.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_relabel.commands.options import Command, option, positional
from hf_relabel.commands.parser import parse
from hf_relabel.commands.pipeline import COMMANDS as PIPELINE
from hf_relabel.config import BackboneConfig, Config, SourceConfig
from hf_relabel.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Export.

    Args:
        release: Release folder, or user/name@revision on the Hub.
        output: File or folder to write.
        split: Split of the release; needed only if it has several.
        overwrite: Replace an existing file or folder.
    """

    release: str = positional("RELEASE")
    output: Path = positional("OUTPUT")
    split: str | None = option(None, "NAME")
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class CocoSettings(ExportSettings):
    """COCO.

    Args:
        masks: How masks are written: compressed run lengths (pycocotools), run lengths as numbers (CVAT), or polygons.
    """

    masks: Literal["rle", "uncompressed-rle", "polygons"] = "rle"


@dataclass(frozen=True, kw_only=True)
class ImagesSettings(ExportSettings):
    """Images.

    Args:
        images: Folder with the images; the exported folder links to them.
        copy: Copy the images into the exported folder instead of linking to them; supervision refuses links.
    """

    images: Path | None = option(None, "FOLDER")
    copy: bool = False

    def __post_init__(self) -> None:
        if self.copy and self.images is None:
            raise UsageError("--copy: name the folder of the images with --images")


@dataclass(frozen=True, kw_only=True)
class FiftyOneSettings(ImagesSettings, CocoSettings):
    """FiftyOne.

    Args:
        images: Folder with the images; data/ links to them.
        copy: Copy the images into data/ instead of linking to them; supervision refuses links.
        masks: How masks are written: compressed run lengths, run lengths as numbers, or polygons.
    """


@dataclass(frozen=True, kw_only=True)
class LabelStudioSettings(ExportSettings):
    """Label Studio.

    Args:
        masks: Brush masks, which are exact, or polygons, one per part of a region.
        image_root: Start of the images' addresses; the image id is added. By default that of Label Studio's local
            files storage.
    """

    masks: Literal["brush", "polygons"] = "brush"
    image_root: str = option("/data/local-files/?d=", "URL")


@dataclass(frozen=True, kw_only=True)
class LabelMapsSettings:
    """Label maps.

    Args:
        run: A run's folder with a finished labeler, a labeler's folder, or its Hub id.
        output: Folder of the maps.
        images: Image folder; images may be anywhere below it. By default the images of the run.
        backbone: Folder of the labeler's backbone, if it is a local one that its run does not name.
        top_k: Classes per cell.
        overwrite: Make maps that exist again.
    """

    run: str = positional("RUN")
    output: Path = positional("OUTPUT")
    images: Path | None = option(None, "FOLDER")
    backbone: str | None = option(None, "FOLDER")
    top_k: int = 5
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"--top-k: must be 1 or more, got {self.top_k}")


def run_label_maps(settings: LabelMapsSettings) -> int:
    """Export ReLabel's label maps from a labeler's dense predictions; returns the exit status."""
    from hf_relabel.run.progress import progress_bar
    from hf_relabel.run.quiet import quiet_libraries
    from hf_relabel.run.ranks import current_rank
    from hf_relabel.sources.source import open_source
    from hf_relabel.stages.dense_maps import write_dense_maps
    from hf_relabel.stages.finished import find_labeler
    from hf_relabel.stages.pipeline import CONFIG_FILE

    quiet_libraries()
    finished = find_labeler(settings.run)
    backbone = BackboneConfig(settings.backbone) if settings.backbone else BackboneConfig()
    config = Config(backbone=backbone)
    if settings.images is not None:
        source = open_source(SourceConfig(path=str(settings.images), labeled=False))
    else:
        file = finished.folder.parent / CONFIG_FILE
        if not file.is_file():
            raise UsageError(f"--images is missing, and {settings.run} is no run that names its images")
        source = open_source(parse(PIPELINE["run"], ["--config", str(file)]).source)
    rank = current_rank(config.run)
    with progress_bar(len(source.image_ids), "label maps", "images", rank) as bar:
        made = write_dense_maps(
            finished,
            config,
            source,
            settings.output,
            rank,
            top_k=settings.top_k,
            overwrite=settings.overwrite,
            tick=bar.update,
        )
    held_out = f", {made.held_out} by a head that has not seen the image" if made.held_out else ""
    print(f"{settings.output}: {made.written} label maps written{held_out}, {made.kept} were there")
    for reason, count in made.unreadable.most_common():
        print(f"{count} images have no map: {reason}")
    return 0


def run_tsv(settings: ExportSettings) -> int:
    """Export the paper's TSV; returns the exit status."""
    from hf_relabel.formats import paper_tsv
    from hf_relabel.hub.releases import open_release

    release = open_release(settings.release).only(settings.split)
    exported = paper_tsv.export_tsv(release, settings.output, overwrite=settings.overwrite)
    print(f"{settings.output}: {exported.images:,} images, {exported.labels:,} labels")
    print(paper_tsv.CARRIES)
    return 0


def run_coco(settings: CocoSettings) -> int:
    """Export COCO JSON; returns the exit status."""
    from hf_relabel.formats import coco_export
    from hf_relabel.hub.releases import open_release

    release = open_release(settings.release).only(settings.split)
    exported = coco_export.export_coco(release, settings.output, masks=settings.masks, overwrite=settings.overwrite)
    _print_counts(settings, exported, coco_export.CARRIES)
    return 0


def run_fiftyone(settings: FiftyOneSettings) -> int:
    """Export a folder for FiftyOne; returns the exit status."""
    from hf_relabel.formats import fiftyone_folder
    from hf_relabel.hub.releases import open_release

    release = open_release(settings.release).only(settings.split)
    exported = fiftyone_folder.export_fiftyone(
        release,
        settings.output,
        images=settings.images,
        copy=settings.copy,
        masks=settings.masks,
        overwrite=settings.overwrite,
    )
    _print_counts(settings, exported, fiftyone_folder.CARRIES)
    data = "FOLDER OF THE IMAGES" if settings.images is None else str(settings.output.absolute() / "data")
    print(_fiftyone_lines(settings.output, data, settings.release))
    return 0


def _fiftyone_lines(folder: Path, data: str, release: str) -> str:
    """The lines of Python that read a folder in FiftyOne, and those that bring edits back."""
    regions, labels = "fiftyone.types.COCODetectionDataset", "fiftyone.types.FiftyOneImageClassificationDataset"
    regions_file, labels_file = str(folder / "labels.json"), str(folder / "image_labels.json")
    return f"""
dataset = fiftyone.Dataset.from_dir(dataset_type={regions}, data_path={data!r}, labels_path={regions_file!r}, \
label_types="segmentations", label_field="regions")
dataset.merge_dir(dataset_type={labels}, data_path={data!r}, labels_path={labels_file!r}, label_field="image_labels")

and after edits:
dataset.export(labels_path="edited/labels.json", dataset_type={regions}, label_field="regions", rel_dir={data!r})
dataset.export(labels_path="edited/image_labels.json", dataset_type={labels}, label_field="image_labels", \
rel_dir={data!r})
hf-relabel review {release} --edited edited"""


def run_yolo(settings: ImagesSettings) -> int:
    """Export a folder for YOLO; returns the exit status."""
    from hf_relabel.formats import yolo_folder
    from hf_relabel.hub.releases import open_release

    release = open_release(settings.release)
    if settings.split is not None:
        release = release.only(settings.split)
    exported = yolo_folder.export_yolo(
        release, settings.output, images=settings.images, copy=settings.copy, overwrite=settings.overwrite
    )
    _print_counts(settings, exported, yolo_folder.CARRIES)
    return 0


def run_label_studio(settings: LabelStudioSettings) -> int:
    """Export tasks for Label Studio; returns the exit status."""
    from hf_relabel.formats import label_studio
    from hf_relabel.hub.releases import open_release

    release = open_release(settings.release).only(settings.split)
    exported = label_studio.export_label_studio(
        release,
        settings.output,
        image_root=settings.image_root,
        masks=settings.masks,
        overwrite=settings.overwrite,
    )
    _print_counts(settings, exported, label_studio.CARRIES)
    print("Paste label_config.xml into the project's labeling interface, then import tasks.json")
    return 0


def _print_counts(settings: ExportSettings, exported: Any, carries: str) -> None:
    counts = f"{exported.images:,} images, {exported.labels:,} labels, {exported.regions:,} regions"
    print(f"{settings.output}: {counts}")
    print(carries)


COMMANDS: dict[str, Command[Any]] = {
    "export label-maps": Command(
        name="export label-maps",
        summary="ReLabel's label maps from a run's labeler, for training code that reads them",
        settings=LabelMapsSettings,
        run=run_label_maps,
        description="One tensor [2, 5, 15, 15] per image, as ReLabel publishes them: the highest logits of each cell "
        "of a grid and their classes, from the labeler's dense predictions; OUTPUT/<image id>.pt, and classes.txt.",
    ),
    "export tsv": Command(
        name="export tsv",
        summary="the paper's labels, one line per image",
        settings=ExportSettings,
        run=run_tsv,
        description="One line per image: file, original class, classes, probabilities to 4 places. No masks.",
    ),
    "export coco": Command(
        name="export coco",
        summary="COCO JSON with masks or polygons; `import coco` makes the same release from it",
        settings=CocoSettings,
        run=run_coco,
        description="One COCO JSON file with everything that a release contains. Category ids are the class indices "
        "+ 1; what COCO has no field for is stored in additional fields of images and annotations.",
    ),
    "export fiftyone": Command(
        name="export fiftyone",
        summary="a folder that FiftyOne's COCODetectionDataset importer reads",
        settings=FiftyOneSettings,
        run=run_fiftyone,
        description="A folder with labels.json and, with --images, data/. Without --images there is no data/: pass "
        "the images' own folder to FiftyOne as data_path, as the command prints at the end.",
    ),
    "export yolo": Command(
        name="export yolo",
        summary="a folder for YOLO segmentation models: one polygon per region",
        settings=ImagesSettings,
        run=run_yolo,
        description="A folder with data.yaml, labels/SPLIT/NAME.txt, the scores in labels.csv and regions.csv and, "
        "with --images, images/SPLIT/. NAME is the image id with `__` instead of `/`.",
    ),
    "export label-studio": Command(
        name="export label-studio",
        summary="tasks for Label Studio with brush masks or polygons, to be corrected there",
        settings=LabelStudioSettings,
        run=run_label_studio,
        description="A folder with label_config.xml, the labeling interface, and tasks.json: labels and regions of "
        "each image as predictions with their scores.",
    ),
}
