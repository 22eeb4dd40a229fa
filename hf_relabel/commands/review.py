"""Check a random sample of the added labels by hand, and turn the answers into numbers and corrections.

hf-relabel review runs/demo/release --sample 200

writes a page that asks about 200 labels: y, n or u, a click on a region to give it another class, a to add a missing
label. It saves review.json. Then

hf-relabel review runs/demo/release --answers review.json

prints the precision of the added labels with its confidence interval, and writes corrections.jsonl and checked.json
into the folder of the run, where the next build finds them. The answers of several people to the same sample are
merged. --edited takes what people changed in an export (`hf-relabel export`) with FiftyOne, Label Studio or CVAT.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_relabel.commands.arguments import ImageSettings
from hf_relabel.commands.gallery import describe, open_photos
from hf_relabel.commands.options import Command, option, positional
from hf_relabel.errors import FormatError, UsageError

if TYPE_CHECKING:
    from hf_relabel.release.reader import Release
    from hf_relabel.review.answers import Review
    from hf_relabel.review.checked import Checked


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """Review.

    Args:
        release: Release folder, or user/name@revision on the Hub.
        sample: Labels to ask about.
        seed: Seed of the sample; the same seed gives the same page to several people.
        images: Images of the release; by default those that its run was made from.
        out: Folder of the page.
        answers: Answers to evaluate, review.json; give the option again for each person.
        edited: An export of the release that people edited in another tool, instead of answers: COCO JSON, a FiftyOne
            folder in COCO format, or Label Studio's JSON.
        reviewer: Who edited it, if the file does not say.
        mistakes: Share of answers that are expected to be wrong; the precision is corrected for it. Two reviewers of
            the same sample show it.
        corrections: Folder for corrections.jsonl and checked.json; by default that of the run that the release lies in.
    """

    release: str = positional("RELEASE")
    sample: int = 200
    seed: int = 0
    images: ImageSettings
    out: Path = option(Path("review"), "FOLDER")
    answers: list[Path] = field(default_factory=list, metadata={"metavar": "FILE.json"})
    edited: Path | None = option(None, "PATH")
    reviewer: str = option("unnamed", "NAME")
    mistakes: float = 0.0
    corrections: Path | None = option(None, "FOLDER")

    def __post_init__(self) -> None:
        if not 0 <= self.mistakes <= 0.45:
            raise UsageError(f"--mistakes {self.mistakes}: must be from 0 to 0.45")
        if self.edited and self.answers:
            raise UsageError("review: give either --answers or --edited")
        if self.sample < 1:
            raise UsageError(f"--sample {self.sample}: must be 1 or more")


def run(settings: ReviewSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.hub.releases import open_release

    release = open_release(settings.release)
    if settings.edited:
        return _take_edits(release, settings.edited, settings)
    return _evaluate(release, settings) if settings.answers else _write_page(release, settings)


def _write_page(release: "Release", settings: ReviewSettings) -> int:
    from hf_relabel.review.gallery import write_gallery
    from hf_relabel.review.sample import draw_sample

    photos = open_photos(release, settings.images)
    sample = draw_sample(release, settings.sample, settings.seed)
    images = {item.image_id for item in sample.items}
    report = write_gallery(release, photos, settings.out, image_ids=images, review=sample.to_page())
    print("\n".join(describe(report)))
    print(f"asks about {len(sample.items):,} of {sum(stratum.labels for stratum in sample.strata):,} added labels")
    print(f"then: hf-relabel review {settings.release} --answers review.json")
    return 0


def _evaluate(release: "Release", settings: ReviewSettings) -> int:
    from hf_relabel.review.answers import merge_reviews, read_review
    from hf_relabel.review.checked import CHECKED, check
    from hf_relabel.review.corrections import CORRECTIONS, add_corrections
    from hf_relabel.review.sample import identity_of
    from hf_relabel.run.store import make_folder

    review = merge_reviews([(path, read_review(path)) for path in settings.answers])
    if review.release != identity_of(release):
        named = f"{review.release['name']} {review.release['version']}"
        raise FormatError(
            f"{settings.answers[0]}: answers a sample of {named}, which is not {settings.release}; name the release "
            "that the page was made from"
        )
    folder = settings.corrections or _run_folder(release)
    make_folder(folder)
    checked = check(release, review, settings.mistakes)
    print(summarize(checked, review))
    added = add_corrections(folder / CORRECTIONS, review.corrections())
    checked.save(folder / CHECKED)
    print(f"\n{folder / CORRECTIONS}: {added} corrections added\n{folder / CHECKED}: the numbers above")
    return 0


def _take_edits(release: "Release", path: Path, settings: ReviewSettings) -> int:
    from hf_relabel.formats.edited_files import read_edited
    from hf_relabel.release.edits import find_edits
    from hf_relabel.review.corrections import CORRECTIONS, Correction, add_corrections
    from hf_relabel.run.store import make_folder

    found = find_edits(release, read_edited(path))
    if not found.images:
        raise FormatError(f"{path}: has no image of {settings.release}; name the release that it was exported from")
    corrections = [
        Correction(
            edit.image_id,
            edit.label,
            edit.region,
            edit.old,
            edit.new,
            edit.image.who or settings.reviewer,
            edit.image.when or "",
        )
        for edit in found.edits
    ]
    folder = settings.corrections or _run_folder(release)
    make_folder(folder)
    added = add_corrections(folder / CORRECTIONS, corrections)
    print(f"{path}: {found.images:,} images compared, {len(corrections):,} changes")
    for count, what in (
        (found.unknown_images, "images that the release does not have are left out"),
        (found.unknown_classes, "labels of classes that the release does not have are left out"),
        (found.new_masks, "new regions: only their class is taken, as a label"),
    ):
        if count:
            print(f"  {count:,} {what}")
    print(f"{folder / CORRECTIONS}: {added} corrections added")
    return 0


def _run_folder(release: "Release") -> Path:
    """The folder of the run that a release lies in.

    Raises:
        UsageError: It does not lie in one.
    """
    from hf_relabel.release.versions import run_of

    folder = run_of(release)
    if not (folder / "config.yaml").exists():
        raise UsageError(f"{release.folder}: does not lie in the folder of a run; name a folder with --corrections")
    return folder


def summarize(checked: "Checked", review: "Review") -> str:
    """The result of a review as text."""
    from hf_relabel.evaluation.report import render

    rows: list[list[Any]] = []
    for row in checked.ranges:
        found = row.precision
        interval = f"[{found.low:.3f}, {found.high:.3f}]" if found else "-"
        value = found.value if found else None
        rows.append([f"{row.low:.1f} to {row.high:.1f}", row.labels, row.true, row.false, row.unsure, value, interval])
    precision = "-"
    if checked.precision:
        precision = f"{checked.precision.value:.3f} [{checked.precision.low:.3f}, {checked.precision.high:.3f}]"
    thresholds = [[wanted, value if value is not None else "none"] for wanted, value in checked.thresholds.items()]
    changed = len(review.changes)
    blocks = [
        f"checked by hand: {checked.answers} of {checked.labels} added labels"
        + (f" ({checked.unsure} more unsure)" if checked.unsure else "")
        + f", precision {precision}"
        + (f", corrected for {checked.mistakes:.1%} wrong answers" if checked.mistakes else ""),
        render(["score", "labels", "true", "false", "unsure", "precision", "95% interval"], rows),
        render(["wanted precision", "--build.threshold"], thresholds),
        f"recalibration of the scores (--build.recalibrate true): intercept {checked.recalibration.intercept:+.3f}, "
        f"slope {math.exp(checked.recalibration.log_slope):.3f}",
    ]
    if changed:
        blocks.append(f"other changes: {changed}")
    if checked.agreement:
        kappa = checked.agreement["kappa"]
        blocks.append(
            f"agreement of {checked.reviewers} reviewers: {checked.agreement['agreed']} of "
            f"{checked.agreement['labels']} pairs of answers are equal"
            + (f", Cohen's kappa {kappa:.3f}" if kappa is not None else "")
            + _mistakes_hint(checked)
        )
    return "\n\n".join(blocks)


def _mistakes_hint(checked: "Checked") -> str:
    """How many answers are wrong, judging by the agreement of the reviewers."""
    from hf_relabel.review.estimates import mistakes_of

    agreement = checked.agreement or {}
    if not agreement.get("labels"):
        return ""
    rate = mistakes_of(agreement["agreed"] / agreement["labels"])
    return f"; about {rate:.1%} of the answers are wrong (--mistakes {rate:.3f} corrects the precision for it)"


COMMANDS = {
    "review": Command(
        name="review",
        summary="check a sample of the added labels by hand: precision with an interval, corrections",
        settings=ReviewSettings,
        run=run,
        description=__doc__ or "",
        common=("sample", "answers", "images", "out"),
    )
}
