"""`corrections.jsonl`: what people know better than the labeler, as an overlay that every later build applies.

    {"image": ID, "label": CLASS, "old": true, "new": false, "who": NAME, "when": TIME}
    {"image": ID, "region": ID, "old": CLASS, "new": CLASS or null, "who": NAME, "when": TIME}

Of a label, `old` and `new` say whether it is listed and whether it is true; the same value twice confirms it. Of a
region they are classes; null means that it shows no object. A later line about the same label, or the same class of
the same region, replaces an earlier one. A region is known by its proposal, whatever class a version gives it: `ID#3`
and `ID#3:7` are the same.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_relabel.config.checks import regular_file
from hf_relabel.config.json_file import parse_json
from hf_relabel.errors import FormatError
from hf_relabel.run.store import atomic_open

CORRECTIONS = "corrections.jsonl"


@dataclass(frozen=True)
class Correction:
    """One line of the file; see the description of the module.

    Args:
        image: The image's id.
        label: Name of a class, or None for a correction of a region.
        region: The region's id, or None for a correction of a label.
        old: What it was.
        new: What it is.
        who: The person.
        when: Time, ISO 8601.
    """

    image: str
    label: str | None
    region: str | None
    old: bool | str | None
    new: bool | str | None
    who: str
    when: str

    def __post_init__(self) -> None:
        if (self.label is None) == (self.region is None):
            raise ValueError("a correction is about a label or about a region")
        allowed = (bool,) if self.region is None else (str, type(None))
        if not isinstance(self.old, allowed) or not isinstance(self.new, allowed):
            raise ValueError(f"{self.label or self.region}: {self.old!r} -> {self.new!r}")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Correction":
        """The correction that a line describes.

        Raises:
            KeyError, TypeError, ValueError: It describes none.
        """
        texts = {key: value[key] for key in ("image", "who", "when")} | {
            key: value[key] for key in ("label", "region") if value.get(key) is not None
        }
        for key, text in texts.items():
            if not isinstance(text, str):
                raise TypeError(f"{key} must be text, got {text!r}")
        return cls(
            value["image"], value.get("label"), value.get("region"), value["old"], value["new"], value["who"],
            value["when"],
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the key that does not apply."""
        about = {"label": self.label} if self.region is None else {"region": self.region}
        return {"image": self.image, **about, "old": self.old, "new": self.new, "who": self.who, "when": self.when}

    @property
    def subject(self) -> tuple[str, str, str | None]:
        """What it is about."""
        if self.region is None:
            return self.image, "", self.label
        return self.image, proposal_number(self.region, self.image), str(self.old)


def proposal_number(region_id: str, image_id: str) -> str:
    """Number of a region's proposal; a second region of the same proposal has its class behind a colon."""
    return region_id.removeprefix(f"{image_id}#").partition(":")[0]


def read_corrections(path: Path) -> list[Correction]:
    """Read all lines of a file, in their order.

    Raises:
        FormatError: The file cannot be read, or a line is not a correction.
    """
    try:
        lines = regular_file(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(Correction.from_json(parse_json(line)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{path}, line {number}: not a correction ({error}); fix or remove the line") from error
    return found


def latest(corrections: Iterable[Correction]) -> list[Correction]:
    """The corrections that count, the last one about each label or region, in the order of the lines."""
    kept: dict[tuple[str, str, str | None], Correction] = {}
    for correction in corrections:
        kept.pop(correction.subject, None)
        kept[correction.subject] = correction
    return list(kept.values())


def add_corrections(path: Path, new: Sequence[Correction]) -> int:
    """Append corrections to a file, except those that are in it.

    Returns:
        Number of corrections that were added.

    Raises:
        FormatError: The file has other content.
        OutputError: It cannot be written.
    """
    old = read_corrections(path) if path.exists() else []
    known = set(old)
    added = [correction for correction in new if correction not in known]
    if added:
        with atomic_open(path, "w") as file:
            for correction in [*old, *added]:
                file.write(json.dumps(correction.to_json(), ensure_ascii=True) + "\n")
    return len(added)
