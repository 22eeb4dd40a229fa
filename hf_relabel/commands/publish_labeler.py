"""Publish a finished labeler on the Hub as a model: weights, calibration and a card, in one commit.

hf-relabel publish-labeler runs/demo user/name --tag v1.0.0 --license cc-by-4.0
"""

from dataclasses import dataclass

from hf_relabel.commands.options import Command, option, positional
from hf_relabel.commands.units import human_bytes


@dataclass(frozen=True, kw_only=True)
class PublishLabelerSettings:
    """Publishing a labeler.

    Args:
        labeler: A run's folder or a labeler's folder.
        repo: Model repository, user/name; created if it does not exist.
        tag: Tag to set, such as v1.0.0; a tag is never moved.
        license: Hub identifier of the license.
        license_name: Name of the license, with --license other.
        license_link: Link to the license, with --license other.
        private: Create the repository as private.
        dry_run: Show the files and the card, and send nothing; needs no network.
    """

    labeler: str = positional("RUN")
    repo: str = positional("REPO")
    tag: str | None = option(None, "TAG")
    license: str | None = option(None, "ID")
    license_name: str | None = option(None, "NAME")
    license_link: str | None = option(None, "URL")
    private: bool = False
    dry_run: bool = False


def run(settings: PublishLabelerSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.hub.card_metadata import License
    from hf_relabel.hub.labeler_card import local_models
    from hf_relabel.hub.labelers import CARD, LabelerOptions, labeler_files, publish_labeler
    from hf_relabel.stages.finished import find_labeler

    license = License(settings.license, settings.license_name, settings.license_link)
    options = LabelerOptions(license, settings.tag, settings.private)
    labeler = find_labeler(settings.labeler)
    folder = labeler.folder
    if settings.dry_run:
        files = labeler_files(folder, settings.repo, options)
        print(f"Dry run: nothing is uploaded. {len(files)} files to {settings.repo}")
        print("\n".join(f"  {human_bytes(file.size):>10}  {file.path}" for file in files))
        card = next(file.content for file in files if file.path == CARD)
        print(f"--- {CARD} ---", card.decode() if isinstance(card, bytes) else card, sep="\n")
        return 0
    published = publish_labeler(folder, settings.repo, options)
    what = f"published {published.repo_id}" if published.is_new else f"{published.repo_id} already has this labeler"
    print(f"{what}: commit {published.commit}" + (f", tag {settings.tag}" if settings.tag else ""))
    at = f"@{settings.tag}" if settings.tag else ""
    local = "".join(f" --{name.replace('_', '-')} FOLDER" for name in local_models(labeler.record))
    print(f"hf-relabel annotate photo.jpg --labeler {published.repo_id}{at}{local}")
    return 0


COMMANDS = {
    "publish-labeler": Command(
        name="publish-labeler",
        summary="publish a finished labeler on the Hub, from where others can use it",
        settings=PublishLabelerSettings,
        run=run,
        description=__doc__ or "",
        common=("tag", "license", "dry_run"),
    )
}
