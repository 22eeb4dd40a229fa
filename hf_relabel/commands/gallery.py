"""A page of a release's photos with masks, labels and scores: filters, keys, and the most doubtful labels first.

hf-relabel gallery runs/demo/release --truth runs/demo/truth.jsonl

The page needs no server and no network: open its index.html in a browser, or copy the folder to another machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_relabel.commands.arguments import ImageSettings, TruthSettings
from hf_relabel.commands.options import Command, option, positional
from hf_relabel.config import SourceConfig
from hf_relabel.errors import UsageError

if TYPE_CHECKING:
    from hf_relabel.release.reader import Release
    from hf_relabel.review.gallery import GalleryReport
    from hf_relabel.review.photos import Photos
    from hf_relabel.sources.source import Source

LIMIT = 5000


@dataclass(frozen=True, kw_only=True)
class GallerySettings:
    """Gallery.

    Args:
        release: Release folder, or user/name@revision on the Hub.
        images: Images of the release; by default those that its run was made from.
        truth: True labels to show beside the release's.
        out: Folder of the page.
        max_images: Images to show, at equal distances if the release has more; 0 shows all.
    """

    release: str = positional("RELEASE")
    images: ImageSettings
    truth: TruthSettings
    out: Path = option(Path("gallery"), "FOLDER")
    max_images: int = LIMIT


def run(settings: GallerySettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.hub.releases import open_release
    from hf_relabel.review.gallery import write_gallery

    release = open_release(settings.release)
    photos = open_photos(release, settings.images)
    truth = _truth(release, settings.truth) if settings.truth.truth else None
    report = write_gallery(release, photos, settings.out, image_ids=_spread(release, settings.max_images), truth=truth)
    print("\n".join(describe(report)))
    return 0


def open_photos(release: "Release", settings: ImageSettings) -> "Photos":
    """Open the photos of a release: those the settings name, or those that its run was made from.

    Raises:
        UsageError: There is no such folder, or the release does not lie in the folder of its run.
        SourceError: The dataset cannot be opened.
    """
    from hf_relabel.review.photos import photos_in_folder, photos_of_source
    from hf_relabel.sources.source import open_source

    if not settings.images:
        return photos_of_source(_source_of_run(release))
    if settings.dataset:
        return photos_of_source(open_source(settings.source_config(release.split)))
    if not Path(settings.images).is_dir():
        raise UsageError(f"--images {settings.images}: no such folder")
    return photos_in_folder(Path(settings.images))


def _source_of_run(release: "Release") -> "Source":
    """The source of the run that a release lies in."""
    from hf_relabel.config.settings_file import read_yaml
    from hf_relabel.release.versions import run_of
    from hf_relabel.run.snapshot import Snapshot

    run = run_of(release)
    path = run / "config.yaml"
    try:
        found = read_yaml(str(path), str(path))
        config = SourceConfig(**found["source"])
    except (UsageError, KeyError, TypeError) as error:
        raise UsageError(f"--images is missing, and {path} does not name the images of this release") from error
    if config.kind == "folder" and not Path(config.path).is_dir():
        raise UsageError(f"{path}: its images, {config.path}, are not there; name their folder with --images")
    snapshot = Snapshot.load(run)
    if snapshot is None:
        raise UsageError(f"--images is missing, and {run} has no list of images")
    return snapshot.open(config)


def _spread(release: "Release", limit: int) -> set[str] | None:
    """Ids of at most `limit` images at equal distances; None if that is all of them."""
    if limit <= 0 or release.num_images <= limit:
        return None
    ids = [row["image_id"] for row in release.rows("labels", ["image_id"])]
    return {ids[place * len(ids) // limit] for place in range(limit)}


def _truth(release: "Release", settings: TruthSettings) -> dict[str, list[int]]:
    """True labels by image id, among the classes of the release."""
    import numpy as np

    common, _ = settings.read().within(release.class_names)
    ids = [row["image_id"] for row in release.rows("labels", ["image_id"])]
    sets = common.of(ids, release.class_names)
    return {image_id: np.flatnonzero(row).tolist() for image_id, row in zip(ids, sets, strict=True)}


def describe(report: "GalleryReport") -> list[str]:
    """What a page shows and what it lacks, in lines."""
    shown = f"{report.images:,}" if report.images == report.total else f"{report.images:,} of {report.total:,}"
    lines = [f"{report.index}: {shown} images; open it in a browser"]
    for reason, count in sorted(report.unreadable.items(), key=lambda item: -item[1]):
        lines.append(f"without a photo: {count:,} ({reason})")
    if not report.has_run:
        lines.append("without windows and training targets: the release does not lie in the folder of its run")
    return lines


COMMANDS = {
    "gallery": Command(
        name="gallery",
        summary="write a page that shows a release's photos with masks, labels and scores",
        settings=GallerySettings,
        run=run,
        description=__doc__ or "",
        common=("images", "out", "truth"),
    )
}
