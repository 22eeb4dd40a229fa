"""Publish a release on the Hub: checked first, one commit, one tag that is never moved.

hf-relabel publish runs/demo/release user/name --version 1.0.0 --license cc-by-4.0
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hf_relabel.commands.options import Command, option, positional
from hf_relabel.commands.units import human_bytes
from hf_relabel.errors import UsageError

if TYPE_CHECKING:
    from hf_relabel.hub.files import PublishOptions
    from hf_relabel.hub.preview import Preview
    from hf_relabel.hub.publish import Plan, Published
    from hf_relabel.release.reader import Release


@dataclass(frozen=True)
class CardSettings:
    """Card.

    Args:
        license: Hub identifier of the license; by default that of the existing card.
        license_name: Name of the license, with --license other.
        license_link: Link to the license, with --license other.
        source_dataset: Hub id of the dataset with the images.
        tag: A further tag of the card; may be given several times.
        show_images: Folder with the source's images: the gallery shows some of them. Use it only if they may be
            redistributed.
        images_license: Hub identifier of the images' license.
        preview: Publish pictures of up to 500 images with their regions drawn in, as the configuration `preview`, which
            the Hub's viewer shows. `auto` does so with --show-images if --images-license allows redistribution; `on`
            does so because you have the right to.
    """

    license: str | None = option(None, "ID")
    license_name: str | None = option(None, "NAME")
    license_link: str | None = option(None, "URL")
    source_dataset: str | None = option(None, "ID")
    tag: list[str] = field(default_factory=list, metadata={"metavar": "TAG"})
    show_images: Path | None = option(None, "FOLDER")
    images_license: str | None = option(None, "ID")
    preview: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.show_images is not None and not self.show_images.is_dir():
            raise UsageError(f"--show-images {self.show_images}: no such folder")
        if self.preview == "on" and self.show_images is None:
            raise UsageError("--preview on: needs the images; name their folder with --show-images")


@dataclass(frozen=True, kw_only=True)
class PublishSettings:
    """Publishing.

    Args:
        release: Release folder.
        repo: Dataset repository, user/name; created if it does not exist.
        version: The release's version, such as 1.0.0; the tag is v1.0.0.
        dry_run: Check everything and show what would be uploaded, as far as possible without a network.
        card_only: Write the dataset card to this file and do nothing else; needs no network.
        private: Create the repository as private.
        create_pr: Open a pull request; the tag waits until it is merged.
        branch: Branch to commit to.
        message: First line of the commit message.
        previous: Folder of the previous version, to save downloading it.
        drop_split: A split of the previous version that this one no longer has; may be given several times.
        card: What the card says.
    """

    release: str = positional("RELEASE")
    repo: str = positional("REPO")
    version: str = field(metadata={"metavar": "VERSION"})
    dry_run: bool = False
    card_only: Path | None = option(None, "FILE.md")
    private: bool = False
    create_pr: bool = False
    branch: str = option("main", "NAME")
    message: str | None = None
    previous: Path | None = option(None, "RELEASE")
    drop_split: list[str] = field(default_factory=list, metadata={"metavar": "NAME"})
    card: CardSettings


def run(settings: PublishSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.hub.card import CardOptions, write_card
    from hf_relabel.hub.card_metadata import License
    from hf_relabel.hub.files import PublishOptions
    from hf_relabel.hub.publish import dry_run, publish
    from hf_relabel.release.reader import Release

    card = settings.card
    release = Release.open(settings.release)
    preview = _preview(release, card)
    options = PublishOptions(
        version=settings.version,
        branch=settings.branch,
        private=settings.private,
        create_pr=settings.create_pr,
        message=settings.message,
        card=CardOptions(
            license=License(card.license, card.license_name, card.license_link),
            source_dataset=card.source_dataset,
            tags=card.tag,
            shown_images=card.show_images,
            preview=preview,
        ),
        previous=settings.previous,
        dropped_splits=settings.drop_split,
    )
    if settings.card_only is not None:
        write_card(release, settings.repo, options.card, settings.card_only)
        print(f"wrote the card to {settings.card_only}; nothing was published")
        return 0
    if settings.dry_run:
        print(_describe(dry_run(release, settings.repo, options), options))
        return 0
    plan, published = publish(release, settings.repo, options)
    print(_summary(plan, published, options))
    return 0


def _preview(release: "Release", card: CardSettings) -> "Preview | None":
    """The configuration `preview`, or None; says why if it is left out although images are shown."""
    from hf_relabel.hub.preview import make_preview, why_no_preview

    if card.preview == "off" or card.show_images is None:
        return None
    reason = why_no_preview(card.images_license)
    if reason is not None and card.preview == "auto":
        print(f"no preview of images with masks: {reason} (--preview on if you may publish them, off to hide this)")
        return None
    preview = make_preview(release, card.show_images)
    print(f"preview: {preview.rows} images with their regions drawn in")
    for text, count in preview.left_out.items():
        print(f"preview: left out {count} images ({text})")
    return preview


def _describe(plan: "Plan", options: "PublishOptions") -> str:
    """Describe everything that publishing would do."""
    where = f"{plan.repo_id}, branch {options.branch}"
    if plan.unreachable:
        where += f"\nThe Hub was not asked, so all files are listed as uploads: {plan.unreachable}"
    elif not plan.exists:
        where += f" (would be created, {'private' if options.private else 'public'})"
    elif plan.starts_branch:
        where += " (the branch would be created)"
    lines = [f"Dry run: nothing is uploaded. Version {options.version} to {where}", ""]
    if plan.is_large:
        lines.append("These are more files than a commit takes: several commits to a pull request, and one merge.")
    for title, files in (("would be uploaded", plan.add), ("there already", plan.keep)):
        total = sum(file.size for file in files)
        lines.append(f"{len(files)} files {title}, {human_bytes(total)}")
        lines += [f"  {human_bytes(file.size):>10}  {file.path}" for file in files]
    lines.append(f"{len(plan.remove)} files would be removed")
    lines += [f"  {'':>10}  {path}" for path in plan.remove]
    tag = f"tag {options.tag} would be set" if not options.create_pr else "no tag: a pull request would be opened"
    lines += [tag, "", "--- CHANGELOG.md, this version ---", plan.changes, "--- README.md ---", plan.card]
    return "\n".join(lines)


def _summary(plan: "Plan", published: "Published", options: "PublishOptions") -> str:
    sent = sum(file.size for file in plan.add)
    if plan.is_done:
        lines = [f"{plan.repo_id} already has version {options.version}; nothing was sent"]
    else:
        lines = [f"published {plan.repo_id} {options.version}: {len(plan.add)} files, {human_bytes(sent)}"]
    lines.append(f"commit {published.commit}" + (f", tag {published.tag}" if published.tag else ""))
    if published.pull_request:
        lines.append(
            f"pull request {published.pull_request}; after it is merged, run the same command without --create-pr "
            f"to set the tag {options.tag}"
        )
    elif published.tag:
        lines.append(f'load_dataset("{plan.repo_id}", revision="{published.tag}")')
    return "\n".join(lines)


COMMANDS = {
    "publish": Command(
        name="publish",
        summary="publish a release on the Hub: checked first, one commit, one tag that is never moved",
        settings=PublishSettings,
        run=run,
        description=__doc__ or "",
        common=("version", "license", "dry_run"),
    )
}
