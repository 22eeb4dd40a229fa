"""Label photos with a finished labeler: labels in the terminal, and a picture of each photo with its regions.

hf-relabel annotate photo.jpg folder/ --labeler runs/demo
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_relabel.commands.options import Command, option
from hf_relabel.errors import UsageError

if TYPE_CHECKING:
    from hf_relabel.api.result import Result

AT_ONCE = 16
"""Photos between two outputs."""

PICTURES = Path("annotated")


@dataclass(frozen=True, kw_only=True)
class AnnotateSettings:
    """Annotate.

    Args:
        images: Photos, or folders with photos in any subfolders.
        labeler: A run's folder, a labeler's folder, or user/name[@revision] on the Hub.
        backbone: Folder of the labeler's backbone, if it is a local one that its run does not name.
        region_backbone: Likewise the folder of its second backbone, `region_model`, if it has one.
        output: Folder for the pictures; by default `annotated`, and with --json none.
        json: Print one JSON object per photo, with masks as COCO RLE.
        threshold: Minimum score of a label.
        calibrated: Score labels by their estimated probability of being true; otherwise by the labeler's softmax.
    """

    images: list[str] = field(metadata={"metavar": "IMAGE_OR_FOLDER...", "positional": True})
    labeler: str = field(metadata={"metavar": "RUN_OR_HUB_ID"})
    backbone: str | None = option(None, "FOLDER")
    region_backbone: str | None = option(None, "FOLDER")
    output: Path | None = option(None, "FOLDER")
    json: bool = False
    threshold: float = 0.5
    calibrated: bool = True


def run(settings: AnnotateSettings) -> int:
    """Run the command; returns the exit status: 1 if a photo could not be read."""
    paths = list(find_images(settings.images))
    from hf_relabel.api.relabeler import Relabeler
    from hf_relabel.run.store import make_folder

    relabeler = Relabeler.from_pretrained(
        settings.labeler,
        backbone=settings.backbone,
        region_backbone=settings.region_backbone,
        threshold=settings.threshold,
        calibrated=settings.calibrated,
    )
    output = settings.output if settings.json else settings.output or PICTURES
    names = picture_names(paths) if output else []
    if output:
        make_folder(output)
    failed = 0
    for start in range(0, len(paths), AT_ONCE):
        results = relabeler(paths[start : start + AT_ONCE], on_error="return")
        for number, result in enumerate(results, start=start):
            failed += result.error is not None
            print(json.dumps(as_json(result)) if settings.json else as_line(result), flush=True)
            if output and result.error is None:
                result.picture().save(output / names[number], quality=90)
    if output and failed < len(paths):
        made = len(paths) - failed
        word = "picture" if made == 1 else "pictures"
        print(f"{made} {word} in {output}", file=sys.stderr if settings.json else sys.stdout)
    if failed:
        print(f"hf-relabel: {failed} of {len(paths)} photos could not be read", file=sys.stderr)
    return 1 if failed else 0


def find_images(names: list[str]) -> Iterator[str]:
    """Yield the given files, and the images below the given folders.

    Raises:
        UsageError: There is no such file or folder, or a folder has no images.
    """
    from hf_relabel.sources.image_folder import Walk

    for name in names:
        path = Path(name)
        if not path.exists():
            raise UsageError(f"annotate: {name}: no such file or folder")
        if not path.is_dir():
            yield name
            continue
        found = sorted(image_id for image_id, _, _ in Walk().images(path))
        if not found:
            raise UsageError(f"annotate: {name}: no images in this folder")
        yield from (str(path / image_id) for image_id in found)


def picture_names(paths: list[str]) -> list[str]:
    """Return a file name for the picture of each photo, each once."""
    names: list[str] = []
    seen: set[str] = set()
    for path in paths:
        stem, number = Path(path).stem, 1
        name = f"{stem}.jpg"
        while name.lower() in seen:
            number += 1
            name = f"{stem}-{number}.jpg"
        seen.add(name.lower())
        names.append(name)
    return names


def as_line(result: "Result") -> str:
    """Describe a result in one line."""
    if result.error is not None:
        return f"{result.name}: not read: {result.error}"
    labels = ", ".join(f"{label} {score:.2f}" for label, score in zip(result.labels, result.scores, strict=True))
    return f"{result.name}: {labels or 'no label'}"


def as_json(result: "Result") -> dict[str, Any]:
    """Return a result as plain values."""
    if result.error is not None:
        return {"image": result.name, "error": result.error}
    return {
        "image": result.name,
        "labels": [{"label": label, "score": score} for label, score in zip(result.labels, result.scores, strict=True)],
        "regions": [
            {
                "label": region.label,
                "score": region.score,
                "box": region.box,
                "area": region.area,
                "segmentation": region.segmentation,
            }
            for region in result.regions
        ],
    }


COMMANDS = {
    "annotate": Command(
        name="annotate",
        summary="label photos with a finished labeler: labels, and a picture of each",
        settings=AnnotateSettings,
        run=run,
        description=__doc__ or "",
        common=("labeler", "output", "json", "threshold"),
    )
}
