"""Draw figures of a release's photos for papers and cards: the photo, its regions, its labels with their scores.

hf-relabel figure runs/demo/release fruit/scene-00000.jpg ball/scene-00003.jpg
"""

from dataclasses import dataclass, field
from pathlib import Path

from hf_relabel.commands.arguments import ImageSettings
from hf_relabel.commands.options import Command, option, positional
from hf_relabel.errors import ImageReadError, ReleaseError, UsageError


@dataclass(frozen=True, kw_only=True)
class FigureSettings:
    """Figures.

    Args:
        release: Release folder, or user/name@revision on the Hub.
        image_ids: Ids of the images, as in the release's column `image_id`.
        images: Images of the release; by default those that its run was made from.
        out: Folder for the figures, one PNG per photo.
        side: Longer side of the photo in the figure, in pixels.
    """

    release: str = positional("RELEASE")
    image_ids: list[str] = field(metadata={"metavar": "IMAGE_ID...", "positional": True})
    images: ImageSettings
    out: Path = option(Path("figures"), "FOLDER")
    side: int = 480

    def __post_init__(self) -> None:
        if not self.image_ids:
            raise UsageError("figure: name one image id or more")
        if self.side < 64:
            raise UsageError(f"--side: must be 64 or more, got {self.side}")


def run(settings: FigureSettings) -> int:
    """Run the command; returns the exit status: 1 if a photo could not be read."""
    import sys

    from hf_relabel.commands.gallery import open_photos
    from hf_relabel.evaluation.ground_truth import refuse_unknown
    from hf_relabel.hub.releases import open_release
    from hf_relabel.pictures.figure import draw_figure
    from hf_relabel.run.store import atomic_open, make_folder
    from hf_relabel.sources.image_ids import is_safe

    release = open_release(settings.release)
    wanted = dict.fromkeys(settings.image_ids)
    ids = [row["image_id"] for row in release.rows("labels", ["image_id"])]
    refuse_unknown(wanted, ids, f"are not in {settings.release}")
    photos = open_photos(release, settings.images)
    make_folder(settings.out)
    failed = 0
    for row in release.rows("regions"):
        image_id = row["image_id"]
        if image_id not in wanted:
            continue
        if not is_safe(image_id):
            raise ReleaseError(f"{settings.release}: the image id {image_id!a} leads out of a folder; do not use it")
        try:
            photo = photos.load(image_id, max(row["width"], row["height"])).image
        except ImageReadError as error:
            print(f"{image_id}: no figure ({error})", file=sys.stderr)
            failed += 1
            continue
        picture = draw_figure(photo, row, release.class_names, settings.side)
        path = settings.out / f"{image_id.replace('/', '-')}.png"
        with atomic_open(path) as file:
            picture.save(file, "PNG")
        print(path)
    return int(failed > 0)


COMMANDS = {
    "figure": Command(
        name="figure",
        summary="draw photos of a release with their regions and labels, for papers and cards",
        settings=FigureSettings,
        run=run,
        description=__doc__ or "",
        common=("images", "out", "side"),
    )
}
