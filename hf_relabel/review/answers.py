"""`review.json`: the answers that a person saved from the page; those of several people, merged.

{"format": "hf_relabel review", "format_version": 1, "sample": ID, "release": {name, version, manifest_sha256},
 "strata": [{low, high, labels, sampled}], "items": 200, "reviewer": NAME, "saved": TIME,
 "answers": [{image, label, score, stratum, answer: "true" | "false" | "unsure", when}],
 "changes": [{image, label, old, new, when} or {image, region, old, new, when}]}
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from hf_relabel.config.json_file import read_json
from hf_relabel.errors import FormatError
from hf_relabel.review.corrections import Correction
from hf_relabel.review.sample import Stratum

FORMAT, FORMAT_VERSION = "hf_relabel review", 1

ANSWERS = {"true": True, "false": False, "unsure": None}


@dataclass(frozen=True)
class Answer:
    """An answer about one label of the sample.

    Args:
        image: The image's id.
        label: Name of the class.
        score: The label's score in the release.
        stratum: Index of its stratum.
        is_true: Whether the image shows the class; None if the reviewer was unsure, or reviewers disagree.
        who: The reviewer; of several that agree, all.
        when: Time of the (latest) answer, ISO 8601.
    """

    image: str
    label: str
    score: float
    stratum: int
    is_true: bool | None
    who: str
    when: str


@dataclass(frozen=True)
class ReviewFile:
    """The answers of one reviewer."""

    sample: str
    release: dict[str, str]
    strata: list[Stratum]
    reviewer: str
    answers: list[Answer]
    changes: list[Correction]


@dataclass(frozen=True)
class Agreement:
    """How far reviewers agree on the labels that two of them answered with true or false.

    Args:
        labels: Number of pairs of answers about the same label.
        agreed: Number of pairs that are equal.
        kappa: Cohen's kappa, the mean over pairs of reviewers; None if it is not defined.
    """

    labels: int
    agreed: int
    kappa: float | None


@dataclass(frozen=True)
class Review:
    """The answers of all reviewers of one sample.

    Args:
        release: Name, version and manifest hash of the release.
        strata: The strata of the sample.
        reviewers: Number of people.
        answers: One answer per label that anyone answered: that of the majority.
        changes: What they changed, in the order of time.
        agreement: How far they agree; None with one reviewer.
    """

    release: dict[str, str]
    strata: list[Stratum]
    reviewers: int
    answers: list[Answer]
    changes: list[Correction]
    agreement: Agreement | None

    def corrections(self) -> list[Correction]:
        """The answers and changes as corrections, in the order of time; an unsure answer is none."""
        checked = [
            Correction(answer.image, answer.label, None, True, answer.is_true, answer.who, answer.when)
            for answer in self.answers
            if answer.is_true is not None
        ]
        return sorted([*checked, *self.changes], key=lambda correction: correction.when)


def read_review(path: Path) -> ReviewFile:
    """Read the answers of one reviewer.

    Raises:
        FormatError: The file is missing, or is not a review.
    """
    try:
        value = read_json(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON ({error}); save the file from the page again") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("format_version") != FORMAT_VERSION:
        raise FormatError(f"{path}: not the answers of a review page of this version of hf_relabel")
    try:
        reviewer = _text(value["reviewer"])
        strata = [Stratum(**stratum) for stratum in value["strata"]]
        return ReviewFile(
            _text(value["sample"]),
            {key: _text(value["release"][key]) for key in ("name", "version", "manifest_sha256")},
            strata,
            reviewer,
            [_answer(item, reviewer, len(strata)) for item in value["answers"]],
            [Correction.from_json({**item, "who": reviewer}) for item in value["changes"]],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path}: damaged ({error!r}); save the file from the page again") from error


def _answer(item: dict[str, Any], reviewer: str, strata: int) -> Answer:
    if not 0 <= item["stratum"] < strata:
        raise ValueError(f"no stratum {item['stratum']}")
    is_true, when = ANSWERS[item["answer"]], _text(item["when"])
    image, label = _text(item["image"]), _text(item["label"])
    return Answer(image, label, float(item["score"]), int(item["stratum"]), is_true, reviewer, when)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def merge_reviews(files: Sequence[tuple[Path, ReviewFile]]) -> Review:
    """Merge the answers of several people: the majority of those who are sure decides, a tie is unsure.

    Raises:
        FormatError: The files belong to different samples, or two have the same reviewer.
    """
    first_path, first = files[0]
    for path, file in files[1:]:
        if file.sample != first.sample:
            raise FormatError(f"{path}: answers another sample than {first_path}; give the answers of one sample")
    repeated = [name for name, count in Counter(file.reviewer for _, file in files).items() if count > 1]
    if repeated:
        raise FormatError(
            f"{first_path}: two files are by the reviewer {repeated[0]!a}; give the latest file of each reviewer, and "
            "let reviewers enter different names"
        )
    by_label: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for _, file in files:
        for answer in file.answers:
            by_label[answer.image, answer.label].append(answer)
    return Review(
        first.release,
        first.strata,
        len(files),
        [_majority(answers) for answers in by_label.values()],
        [change for _, file in files for change in file.changes],
        _agreement([file for _, file in files]) if len(files) > 1 else None,
    )


def _majority(answers: list[Answer]) -> Answer:
    votes = Counter(answer.is_true for answer in answers if answer.is_true is not None)
    decision = None if votes[True] == votes[False] else votes[True] > votes[False]
    agreeing = [answer for answer in answers if answer.is_true == decision] or answers
    first = answers[0]
    who, when = ", ".join(answer.who for answer in agreeing), max(answer.when for answer in agreeing)
    return Answer(first.image, first.label, first.score, first.stratum, decision, who, when)


def _agreement(files: Sequence[ReviewFile]) -> Agreement:
    from sklearn.metrics import cohen_kappa_score

    labels = agreed = 0
    kappas = []
    for a, b in combinations(files, 2):
        sure = [_sure(file.answers) for file in (a, b)]
        common = sorted(sure[0].keys() & sure[1].keys())
        pairs = [[answers[key] for key in common] for answers in sure]
        labels += len(common)
        agreed += sum(x == y for x, y in zip(*pairs, strict=True))
        if common and len({*pairs[0], *pairs[1]}) == 2:  # with one answer only, agreement by chance is complete
            kappas.append(float(cohen_kappa_score(*pairs)))
    return Agreement(labels, agreed, sum(kappas) / len(kappas) if kappas else None)


def _sure(answers: Iterable[Answer]) -> dict[tuple[str, str], bool]:
    return {(answer.image, answer.label): answer.is_true for answer in answers if answer.is_true is not None}
