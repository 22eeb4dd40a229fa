"""Publish a release on the Hub: checked first, one commit, one tag that is never moved.

hf-relabel publish runs/demo/release user/name --version 1.0.0 --license cc-by-4.0
"""

import argparse
from pathlib import Path

from hf_relabel.commands.units import human_bytes
from hf_relabel.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("release", help="release folder")
    parser.add_argument("repo", help="dataset repository, user/name; created if it is not there")
    parser.add_argument("--version", required=True, help="the release's version, such as 1.0.0; the tag is v1.0.0")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show what would be uploaded")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    parser.add_argument(
        "--create-pr", action="store_true", help="open a pull request; the tag waits until it is merged"
    )
    parser.add_argument("--branch", default="main", help="branch to commit to (default: main)")
    parser.add_argument("--message", help="first line of the commit")
    card = parser.add_argument_group("card")
    card.add_argument("--license", help="the Hub's identifier; by default that of the card which is there")
    card.add_argument("--license-name", help="for --license other")
    card.add_argument("--license-link", help="for --license other")
    card.add_argument("--source-dataset", metavar="ID", help="Hub id of the dataset with the images")
    card.add_argument("--tag", action="append", default=[], help="a further tag of the card; may be given again")
    card.add_argument(
        "--show-images",
        metavar="FOLDER",
        type=Path,
        help="the source's images: the gallery shows some of them. Only if they may be redistributed",
    )
    parser.add_argument(
        "--previous", metavar="RELEASE", type=Path, help="folder of the version before, to save downloading it"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.hub.card import CardOptions
    from hf_relabel.hub.card_metadata import License
    from hf_relabel.hub.client import HubRepo
    from hf_relabel.hub.files import PublishOptions
    from hf_relabel.hub.publish import make_plan, publish
    from hf_relabel.release.reader import Release

    if args.show_images is not None and not args.show_images.is_dir():
        raise UsageError(f"--show-images {args.show_images}: no such folder")
    card = CardOptions(
        license=License(args.license, args.license_name, args.license_link),
        source_dataset=args.source_dataset,
        tags=args.tag,
        shown_images=args.show_images,
    )
    options = PublishOptions(
        version=args.version,
        branch=args.branch,
        private=args.private,
        create_pr=args.create_pr,
        message=args.message,
        card=card,
        previous=args.previous,
    )
    release = Release.open(args.release)
    if args.dry_run:
        plan = make_plan(release, HubRepo(args.repo), options, dry=True)
        print(_describe(plan, options))
        return 0
    plan, published = publish(release, args.repo, options)
    print(_summary(plan, published, options))
    return 0


def _describe(plan, options) -> str:
    """Everything a dry run tells."""
    where = f"{plan.repo_id}, branch {options.branch}"
    if not plan.exists:
        where += f" (would be created, {'private' if options.private else 'public'})"
    elif plan.starts_branch:
        where += " (the branch would be created)"
    lines = [f"Dry run: nothing is sent. Version {options.version} to {where}", ""]
    for title, files in (("would be uploaded", plan.add), ("there already", plan.keep)):
        total = sum(file.size for file in files)
        lines.append(f"{len(files)} files {title}, {human_bytes(total)}")
        lines += [f"  {human_bytes(file.size):>10}  {file.path}" for file in files]
    lines.append(f"{len(plan.remove)} files would be removed")
    lines += [f"  {'':>10}  {path}" for path in plan.remove]
    lines += _reuse(plan)
    tag = f"tag {options.tag} would be set" if not options.create_pr else "no tag: a pull request would be opened"
    lines += [tag, "", "--- CHANGELOG.md, this version ---", plan.changes, "--- README.md ---", plan.card]
    return "\n".join(lines)


def _reuse(plan) -> list[str]:
    if plan.reused is None:
        return []
    size = sum(file.size for file in [*plan.add, *plan.keep] if file.path.startswith("data/"))
    return [
        f"{plan.reused:.1%} of the data's {human_bytes(size)} is in chunks that {plan.previous} holds already; storage "
        f"that knows chunks takes about {human_bytes(round(size * (1 - plan.reused)))} (estimated)"
    ]


def _summary(plan, published, options) -> str:
    sent = sum(file.size for file in plan.add)
    if plan.is_done:
        lines = [f"{plan.repo_id} holds version {options.version} already; nothing was sent"]
    else:
        lines = [f"published {plan.repo_id} {options.version}: {len(plan.add)} files, {human_bytes(sent)}"]
        lines += _reuse(plan)
    lines.append(f"commit {published.commit}" + (f", tag {published.tag}" if published.tag else ""))
    if published.pull_request:
        lines.append(
            f"pull request {published.pull_request}; run the same command without --create-pr after it is merged, "
            f"to set the tag {options.tag}"
        )
    elif published.tag:
        lines.append(f'load_dataset("{plan.repo_id}", revision="{published.tag}")')
    return "\n".join(lines)
