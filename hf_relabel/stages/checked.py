"""What people know about a run's labels: `corrections.jsonl` and `checked.json`, which `hf-relabel review` writes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_relabel.config import BuildConfig
from hf_relabel.errors import UsageError
from hf_relabel.labeling.calibration import MAX_SCORE
from hf_relabel.review.checked import CHECKED, Checked
from hf_relabel.review.corrections import CORRECTIONS
from hf_relabel.review.overlay import NO_CORRECTIONS, Applied, ImageCorrections, Overlay, read_overlay
from hf_relabel.review.recalibration import Recalibration


@dataclass(frozen=True)
class Knowledge:
    """Corrections and the result of a review.

    Args:
        overlay: The corrections; None if there are none.
        checked: The result of a review of the same labeler's labels; None if there is none.
        recalibration: Correction of the scores, if `build.recalibrate` asks for it.
        applied: Counts what the corrections change.
    """

    overlay: Overlay | None = None
    checked: Checked | None = None
    recalibration: Recalibration | None = None
    applied: Applied = field(default_factory=Applied)

    def of(self, image_id: str) -> ImageCorrections:
        """The corrections of an image."""
        return self.overlay.of(image_id) if self.overlay else NO_CORRECTIONS

    def count(self, image_id: str, before: list[tuple[int, float]], after: list[int]) -> None:
        """Count the corrections of an image, by its labels before (with their scores) and after."""
        self.applied.count(image_id, {label for label, _ in before}, set(after), self.of(image_id))

    def rescored(self, labeled: dict[str, Any]) -> dict[str, Any]:
        """A row of `schema.REGIONS` with the probabilities of its labels recalibrated."""
        if self.recalibration is None or not labeled["labels"]:
            return labeled
        labels = [
            item if item["score"] is None else item | {"score": self._moved(item["score"])}
            for item in labeled["labels"]
        ]
        return labeled | {"labels": labels}

    def _moved(self, score: float) -> float:
        assert self.recalibration is not None
        return min(float(self.recalibration.apply(score)), MAX_SCORE)

    def inputs(self) -> dict[str, Any]:
        """What a release depends on, for its fingerprint; empty without corrections and review."""
        found: dict[str, Any] = {}
        if self.overlay:
            found["corrections"] = self.overlay.digest
        if self.checked:
            found["checked"] = self.checked.for_provenance()
        if self.recalibration:
            found["recalibrate"] = self.recalibration.to_json()
        return found

    def records(self) -> dict[str, Any]:
        """What the manifest says about it, after all rows were made."""
        return {
            **({"corrections": self.overlay.record(self.applied)} if self.overlay else {}),
            **({"checked": self.checked.for_provenance()} if self.checked else {}),
            **({"recalibration": self.recalibration.to_json()} if self.recalibration else {}),
        }


def read_knowledge(build: BuildConfig, run: Path, class_names: list[str], labeler: str | None) -> Knowledge:
    """Read what people know: the files that the settings name, or those in the folder of the run.

    Args:
        build: The settings.
        run: Folder of the run.
        class_names: Its classes.
        labeler: SHA-256 of the weights of its labeler. A review of another labeler's labels says nothing about these.

    Raises:
        FormatError: A file is missing or damaged.
        UsageError: `build.recalibrate` has no review of this labeler.
    """
    corrections = Path(build.corrections) if build.corrections else run / CORRECTIONS
    overlay = read_overlay(corrections, class_names) if build.corrections or corrections.exists() else None
    path = Path(build.checked) if build.checked else run / CHECKED
    checked = Checked.read(path) if build.checked or path.exists() else None
    if checked is not None and checked.labeler != labeler:
        if build.recalibrate or build.checked:
            raise UsageError(
                f"{path}: the review of another labeler's labels; review a release of this run (`hf-relabel review`)"
            )
        checked = None
    if build.recalibrate and checked is None:
        raise UsageError(f"build.recalibrate: {path} is missing; `hf-relabel review RELEASE --answers` writes it")
    return Knowledge(overlay, checked, checked.recalibration if checked and build.recalibrate else None)
