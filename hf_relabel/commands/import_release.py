"""Make a release from the paper's TSV, from COCO JSON or from ReLabel's label maps.

hf-relabel import tsv labels.tsv runs/paper/release
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_relabel.commands.options import Command, option, positional

if TYPE_CHECKING:
    from hf_relabel.formats.releases import Imported, Names


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Import.

    Args:
        input: File or folder to read.
        release: Release folder to make.
        version: Version of the release; by default 1.0.0, or the version in a COCO file.
        name: Pretty name of the dataset; by default the input's name, or the name in a COCO file.
        split: Name of the split; by default train, or the split in a COCO file.
        overwrite: Replace an existing release.
    """

    input: Path = positional("INPUT")
    release: Path = positional("RELEASE")
    version: str | None = option(None, "VERSION")
    name: str | None = None
    split: str | None = option(None, "NAME")
    overwrite: bool = False

    def names(self) -> "Names":
        """Return what the release is called, if the input does not say."""
        from hf_relabel.formats.releases import Names

        given = {"version": self.version, "name": self.name or self.input.resolve().stem, "split": self.split}
        return Names(**{key: value for key, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class TsvSettings(ImportSettings):
    """TSV.

    Args:
        class_names: File with the classes, one per line (.txt), or folder and name (.tsv); by default ImageNet-1k's.
    """

    class_names: str | None = option(None, "FILE")


@dataclass(frozen=True, kw_only=True)
class LabelMapSettings(TsvSettings):
    """Label maps.

    Args:
        threshold: Minimum probability of a label.
        top_k: Maximum number of labels per image.
        image_suffix: Suffix of the images' names, instead of .pt.
    """

    threshold: float = 0.1
    top_k: int = 5
    image_suffix: str = option(".JPEG", "SUFFIX")


def run_tsv(settings: TsvSettings) -> int:
    """Import the paper's TSV; returns the exit status."""
    from hf_relabel.formats.paper_tsv import import_tsv

    imported = import_tsv(
        settings.input,
        settings.release,
        names=settings.names(),
        class_names=settings.class_names,
        overwrite=settings.overwrite,
    )
    _print_counts(settings, imported)
    print("The TSV has no regions and no image sizes: width and height are 0.")
    return 0


def run_coco(settings: ImportSettings) -> int:
    """Import COCO JSON; returns the exit status."""
    from hf_relabel.formats.coco_import import import_coco

    imported = import_coco(
        settings.input,
        settings.release,
        version=settings.version,
        name=settings.name,
        split=settings.split,
        overwrite=settings.overwrite,
    )
    _print_counts(settings, imported)
    return 0


def run_relabel(settings: LabelMapSettings) -> int:
    """Import ReLabel's label maps; returns the exit status."""
    from hf_relabel.formats.relabel_maps import import_label_maps

    imported = import_label_maps(
        settings.input,
        settings.release,
        threshold=settings.threshold,
        top_k=settings.top_k,
        image_suffix=settings.image_suffix,
        names=settings.names(),
        class_names=settings.class_names,
        overwrite=settings.overwrite,
    )
    _print_counts(settings, imported)
    print("Label maps have no regions and no image sizes: width and height are 0.")
    return 0


def _print_counts(settings: ImportSettings, imported: "Imported") -> None:
    print(f"{settings.release}: " + ", ".join(f"{number:,} {what}" for what, number in imported.facts.items()))
    for reason, number in imported.left_out.items():
        if number:
            print(f"left out: {number:,} {reason}")


COMMANDS: dict[str, Command[Any]] = {
    "import tsv": Command(
        name="import tsv",
        summary="a release from the paper's labels",
        settings=TsvSettings,
        run=run_tsv,
        description="A release from lines of file, original class, classes and probabilities. It has no regions, and "
        "the sizes of the images are unknown: 0.",
    ),
    "import coco": Command(
        name="import coco",
        summary="the release that `export coco` wrote",
        settings=ImportSettings,
        run=run_coco,
        description="The release in a file written by `hf-relabel export coco`, equal row by row.",
    ),
    "import relabel": Command(
        name="import relabel",
        summary="a release of image-level labels from ReLabel's label maps",
        settings=LabelMapSettings,
        run=run_relabel,
        description="A release from <class folder>/<image name>.pt. An image's labels are the classes with at least "
        "the threshold's probability: the softmax of the logits' mean over the positions of its map. It has no "
        "regions, and the sizes of the images are unknown: 0.",
    ),
}
