"""Corrections, ready to be applied to the rows of a release."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_relabel.errors import FormatError
from hf_relabel.review.corrections import Correction, latest, proposal_number, read_corrections
from hf_relabel.schema import HUMAN, MACHINE
from hf_relabel.sources.classes import nearest


@dataclass(frozen=True)
class ImageCorrections:
    """What people know about one image.

    Args:
        labels: Whether the image shows a class, by class.
        regions: The class of a proposal's region, by (number of the proposal, class it had before any correction); None
            if it shows no object.
    """

    labels: Mapping[int, bool] = field(default_factory=dict)
    regions: Mapping[tuple[int, int], int | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.labels or self.regions)

    def applied_to(self, labels: Sequence[tuple[int, float]], given: int) -> list[tuple[int, float]]:
        """Correct an image's labels: pairs of class and score, highest score first.

        A label that is known to be true has the score 1, like the given one, and one that is known to be false is not
        listed, even if it is the given one.
        """
        known = {label: score for label, score in labels if self.labels.get(label, True)}
        known |= {label: 1.0 for label, is_true in self.labels.items() if is_true}
        return sorted(known.items(), key=lambda item: (-item[1], item[0] != given, item[0]))

    def without_own_region(
        self, labels: Sequence[tuple[int, float]], found: Sequence[tuple[int, float]]
    ) -> list[tuple[int, float]]:
        """The labels whose best region is to be looked for: not those that are only known from a corrected region."""
        by_region = set(self.regions.values()) - {label for label, _ in found}
        return [(label, score) for label, score in labels if label not in by_region]

    def applied_to_regions(self, regions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave out the regions of false labels, and give those of true ones the score 1."""
        kept = [region for region in regions if self.labels.get(region["label"], True)]
        return [region | {"score": 1.0} if self.labels.get(region["label"]) else region for region in kept]

    def columns(self) -> dict[str, Any]:
        """The columns that only a release with corrections has."""
        return {"source": HUMAN if self else MACHINE, "checked_labels": sorted(self.labels)}


NO_CORRECTIONS = ImageCorrections()


@dataclass
class Applied:
    """What the corrections changed in a release.

    Args:
        images: Ids of the images with a correction.
        labels: Number of labels that were checked.
        labels_added, labels_removed: Number of labels that are listed, or not listed, only because of a correction.
        regions: Number of regions that were given another class or taken away.
    """

    images: set[str] = field(default_factory=set)
    labels: int = 0
    labels_added: int = 0
    labels_removed: int = 0
    regions: int = 0

    def count(self, image_id: str, before: set[int], after: set[int], corrections: ImageCorrections) -> None:
        """Count the corrections of an image, by its listed labels before and after."""
        if not corrections:
            return
        self.images.add(image_id)
        self.labels += len(corrections.labels)
        self.labels_added += len(after - before)
        self.labels_removed += len(before - after)
        self.regions += sum(new != old for (_, old), new in corrections.regions.items())


@dataclass(frozen=True)
class Overlay:
    """All corrections of a run.

    Args:
        of_images: The corrections by image id.
        digest: Hash of what they say, without names and times.
    """

    of_images: Mapping[str, ImageCorrections]
    digest: str

    def of(self, image_id: str) -> ImageCorrections:
        """The corrections of an image; there may be none."""
        return self.of_images.get(image_id, NO_CORRECTIONS)

    def record(self, applied: Applied) -> dict[str, Any]:
        """What the manifest says about the corrections."""
        return {
            "sha256": self.digest,
            "images": len(applied.images),
            "labels": applied.labels,
            "labels_added": applied.labels_added,
            "labels_removed": applied.labels_removed,
            "regions": applied.regions,
            "images_not_here": len(self.of_images.keys() - applied.images),
        }


def read_overlay(path: Path, class_names: list[str]) -> Overlay | None:
    """Read a file of corrections; None if it has none.

    Raises:
        FormatError: The file is damaged, or names a class that does not exist.
    """
    return overlay_of(read_corrections(path), class_names, str(path))


def overlay_of(corrections: Sequence[Correction], class_names: list[str], origin: str) -> Overlay | None:
    """Put corrections together by image; None if there are none.

    Raises:
        FormatError: A class does not exist, or a region's id has no number.
    """
    places = {name: label for label, name in enumerate(class_names)}

    def place(name: object) -> int:
        if name not in places:
            raise FormatError(f"{origin}: no class {name!a}{nearest(str(name), class_names)}")
        return places[str(name)]

    labels: dict[str, dict[int, bool]] = {}
    regions: dict[str, dict[tuple[int, int], int | None]] = {}
    for correction in latest(corrections):
        if correction.region is None:
            labels.setdefault(correction.image, {})[place(correction.label)] = bool(correction.new)
            continue
        number = proposal_number(correction.region, correction.image)
        if not number.isdecimal():
            raise FormatError(f"{origin}: {correction.region!a} is not the id of a region of {correction.image!a}")
        known = regions.setdefault(correction.image, {})
        old, new = place(correction.old), None if correction.new is None else place(correction.new)
        # A region that was corrected before is known by the class that it had first.
        first = next((key for key, now in known.items() if key[0] == int(number) and now == old), (int(number), old))
        known[first] = new
    if not labels and not regions:
        return None
    found = {}
    for image_id in sorted(labels.keys() | regions.keys()):
        of_regions = regions.get(image_id, {})
        shown = {new: True for new in of_regions.values() if new is not None}
        found[image_id] = ImageCorrections(shown | labels.get(image_id, {}), of_regions)
    plain = [
        [image_id, sorted(item.labels.items()), sorted([*key, new] for key, new in item.regions.items())]
        for image_id, item in found.items()
    ]
    return Overlay(found, hashlib.sha256(json.dumps([class_names, plain]).encode()).hexdigest())
