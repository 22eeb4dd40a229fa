"""Commands of the pipeline: one stage, or all in a row, by one rank among those that share the run."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hf_relabel.config import Config, as_dict
from hf_relabel.errors import UsageError
from hf_relabel.run.job import Job
from hf_relabel.run.quiet import quiet_libraries
from hf_relabel.run.ranks import current_rank
from hf_relabel.run.store import atomic_open, make_folder
from hf_relabel.stages import build, label, propose, score, train

STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "propose": propose.run,
    "score": score.run,
    "train": train.run,
    "label": label.run,
    "build": build.run,
}

CONFIG_FILE = "config.yaml"


def run_command(command: str, config: Config) -> int:
    """Run one stage, or with `run` all of them; prints a summary at the end. Returns the exit status."""
    if not config.source.path:
        raise UsageError("source.path: no dataset is named; set it to an image folder, a dataset's folder or a Hub id")
    job = Job(config, current_rank(config.run))
    quiet_libraries()
    make_folder(job.folder)
    if job.rank.is_main:
        save_config(config, job.folder / CONFIG_FILE)
    names = list(STAGES) if command == "run" else [command]
    started = time.monotonic()
    for name in names:
        began = time.monotonic()
        outcome = STAGES[name](job)
        if job.rank.is_main:
            print(summary_of_stage(name, outcome, time.monotonic() - began), flush=True)
    if job.rank.is_main:
        made = job.folder / build.STAGE if "build" in names else job.folder
        print(f"done in {time.monotonic() - started:.1f} s: {made}")
    return 0


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML; `--config` reads it again to the same tree."""
    with atomic_open(path, "w") as file:
        file.write("# The resolved configuration of this run; hf-relabel run --config reads it again.\n")
        yaml.safe_dump(as_dict(config), file, sort_keys=False)


def summary_of_stage(name: str, outcome: dict[str, Any], seconds: float) -> str:
    """One line on what a stage made: its counters, or the labeler's measures."""
    if name == "train":
        best = outcome["history"][outcome["best_epoch"]]
        on = f"{outcome['held_out_regions']} held-out" if outcome["held_out_regions"] else "the training"
        facts = [
            f"{outcome['regions']} regions",
            f"best epoch {outcome['best_epoch'] + 1} of {len(outcome['history'])}",
            f"top-1 {best['top1']:.3f} on {on} regions",
        ]
    else:
        facts = [f"{key} {_number(value)}" for key, value in outcome["counters"].items()]
    return f"{name}: {', '.join(facts)} ({seconds:.1f} s)"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
