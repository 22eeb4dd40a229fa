"""The pipeline: the order of the stages, the run's saved configuration, and a summary of each stage."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hf_relabel.config import Config, as_dict
from hf_relabel.config.settings_file import read_yaml
from hf_relabel.errors import StageError, UsageError
from hf_relabel.run.file_system import check_file_system
from hf_relabel.run.job import Job
from hf_relabel.run.quiet import quiet_libraries
from hf_relabel.run.ranks import current_rank
from hf_relabel.run.shards import PartDone
from hf_relabel.run.store import atomic_open, make_folder
from hf_relabel.stages import build, label, propose, score, train
from hf_relabel.stages.finished import FinishedLabeler, find_labeler, refuse_own
from hf_relabel.stages.settings import READS, is_read
from hf_relabel.vision.families import resolve

STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "propose": propose.run,
    "score": score.run,
    "train": train.run,
    "label": label.run,
    "build": build.run,
}

TRAINING = ("score", "train")
"""Stages that a finished labeler replaces."""

CONFIG_FILE = "config.yaml"
HEADER = "# The resolved configuration of this run; `hf-relabel run --config` reads it again.\n"

DROPPED = "dropped: "
"""Prefix of the counters of what a stage dropped, before the reason."""

KEPT = {
    "propose": "proposals",
    "score": "images with a region that trains as a class",
    "label": "regions",
    "build": "labels",
}
"""For each stage the counter of what it kept."""

ROLES = ("class", "background", "nothing")
"""What regions train as, in the order of the summary."""

COLUMN = 58
"""Columns for a summary's words, before its counts."""


def run_stages(command: str, config: Config) -> Job:
    """Run one stage, or with `run` all of them; prints a summary of each. Returns the job.

    With `run.part` a stage ends when its part is done, and the last part completes it.
    """
    if command == "run" and config.run.part is not None:
        raise UsageError(
            f"run.part: {config.run.part}, but `run` works on all parts; give it to a stage such as propose"
        )
    stages = list(STAGES) if command == "run" else [command]
    stage = command
    quiet_libraries()
    finished: FinishedLabeler | None = None
    if config.labeler and set(stages) & {"propose", "label"}:
        finished = find_labeler(config.labeler)
        refuse_own(finished, Path(config.run.dir))
        stages = [name for name in stages if name not in TRAINING]
    if "propose" in stages:
        config = resolve(finished.configure(config) if finished else config)

    def save() -> None:
        if job.rank.is_main:
            save_config(config, job.folder / CONFIG_FILE, stage)

    job = Job(
        config,
        current_rank(config.run),
        accepted=save,
        labeler=finished.folder if finished else None,
        class_names=finished.class_names if finished else None,
    )
    make_folder(job.folder)
    check_file_system(job.folder)
    started = time.monotonic()
    for stage in stages:
        began = time.monotonic()
        try:
            outcome = STAGES[stage](job)
        except PartDone as done:
            print(done, flush=True)
            return job
        save()
        if job.rank.is_main:
            print(summary_of_stage(stage, outcome, time.monotonic() - began), flush=True)
    if job.rank.is_main:
        made = outcome.get("folder", job.folder)
        print(f"done in {time.monotonic() - started:.1f} s: {made}", flush=True)
    return job


def save_config(config: Config, path: Path, stage: str | None = None) -> None:
    """Write the resolved configuration as YAML; `--config` reads it back to the same settings.

    `run.overwrite` and `run.part` are not saved: they are requests to one command, not properties of the run.

    Args:
        config: The configuration of the current command.
        path: The file.
        stage: If the file exists, update only the settings that this stage reads; the others keep what they say about
            the stages that were run before. None writes all settings.

    Raises:
        StageError: The existing file cannot be read.
    """
    content = as_dict(dataclasses.replace(config, run=dataclasses.replace(config.run, overwrite=False, part=None)))
    if stage is not None and path.exists():
        try:
            saved = read_yaml(str(path), str(path))
        except UsageError as error:
            raise StageError(f"{error}; remove the file and run again") from error
        content = _updated(saved, content, READS[stage], "")
    with atomic_open(path, "w") as file:
        file.write(HEADER)
        yaml.safe_dump(content, file, sort_keys=False)


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str, float]]:
    """What the labeler was trained on, and what its scores are worth."""
    rows: list[tuple[str, str, float]] = [
        ("kept", "regions to train on", training["regions"]),
        ("", f"regions per class, median (head: {training['head']})", training["regions_per_class"]),
        ("", "folds", training["folds"]),
    ]
    if training["history"]:
        best = training["history"][training["best_epoch"]]
        rows.append(("", "regions held out to choose the best epoch", training["held_out_regions"]))
        rows.append(("", f"best of {len(training['history'])} epochs", training["best_epoch"] + 1))
        on = "held-out" if training["held_out_regions"] else "training"
        rows.append(("", f"top-1 accuracy on the {on} regions", best["top1"]))
    scores = training["scores"]
    if scores["calibration"]:
        expected = scores["estimates"][scores["evidence"]]
        rows.append(("scores", f"propensity of the given label ({scores['evidence']})", expected["propensity"]))
        rows.append(("", "labels to add at 0.5, by estimate", expected["added"]))
        rows.append(("", "of them true, by estimate", round(expected["true"])))
    return rows


def _updated(saved: Any, current: dict[str, Any], reads: tuple[str, ...], prefix: str) -> dict[str, Any]:
    """Return the settings of `current` that are read, and the saved values of all others."""
    content = {}
    for name, value in current.items():
        key = prefix + name
        old = saved.get(name, value) if isinstance(saved, dict) else value
        if isinstance(value, dict):
            content[name] = _updated(old, value, reads, f"{key}.")
        else:
            content[name] = value if is_read(key, reads) else old
    return content


def summary_of_stage(name: str, outcome: dict[str, Any], seconds: float) -> str:
    """Format what a stage made as a small table: what was kept, what was dropped for which reason, and its note.

    Of the score stage, it shows how many regions train as a class, as background or as nothing, and why.
    """
    if name == "train":
        rows = _training_rows(outcome)
    else:
        rows = [_row(name, key, value) for key, value in outcome["counters"].items()]
        order = ["images", "kept", "dropped", *ROLES, ""]
        rows.sort(key=lambda row: order.index("images" if row[1] == "images" else row[0]))
    shown = [_format_row(*row) for row in rows if row[0] != "dropped" or row[2]]
    note = [f"  note: {outcome['note']}"] if "note" in outcome else []
    return "\n".join([f"{name}: done in {seconds:.1f} s", *shown, *note])


def _row(stage: str, counter: str, value: float) -> tuple[str, str, float]:
    """Return what a counter counts (the first column of the table, and the second), and its value."""
    if counter == "errors":
        return "dropped", "unreadable images", value
    if counter.startswith(DROPPED):
        return "dropped", counter.removeprefix(DROPPED), value
    if counter == KEPT[stage]:
        return "kept", counter, value
    regions, _, role = counter.partition(" that train as ")
    kind, _, reason = role.partition(": ")
    return (kind, f"{regions}: {reason}", value) if kind in ROLES else ("", counter, value)


def _format_row(kind: str, what: str, value: float) -> str:
    number = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    return f"  {kind:<11} {what:<{COLUMN}} {number:>12}"
