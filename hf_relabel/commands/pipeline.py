"""The pipeline's commands: `run`, and each of its stages alone. All take the configuration tree of `hf_relabel.config`.

hf-relabel run --config imagenet.yaml --run.dir runs/imagenet
"""

import sys
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_relabel.commands.options import Command
from hf_relabel.commands.parser import parse, parse_tree
from hf_relabel.config import Config
from hf_relabel.errors import UsageError
from hf_relabel.sources.path import check_source_path
from hf_relabel.sources.splits import split_configs, split_entries
from hf_relabel.stages.settings import READS, is_read

if TYPE_CHECKING:
    from hf_relabel.release.reader import Release

SUMMARIES = {
    "run": "run all stages: from photos to a release",
    "propose": "find object proposals and pool their features (one backbone forward per image)",
    "score": "decide what each region trains as: a class, background or nothing",
    "train": "train the labeler on these regions and calibrate its scores",
    "label": "classify every region and score the possible labels of every image",
    "build": "write the release: a table of labels, scores and masks",
}

READ_THE_SOURCE = ("run", "propose")
"""Commands that read the source; the stages after `propose` work from what it stored."""

COMMON = {
    "run": ("labeler", "backbone.model", "propose.tau", "build.threshold", "build.version"),
    "propose": ("labeler", "backbone.model", "propose.tau", "propose.max_masks", "propose.masks"),
    "score": ("score.method", "score.keep", "score.tau_label"),
    "train": ("train.epochs", "train.lr"),
    "label": ("labeler", "label.top_k"),
    "build": ("build.threshold", "build.version", "build.name", "build.precision"),
}


def run(command: str, config: Config) -> int:
    """Run all stages or one of them; returns the exit status."""
    if command in READ_THE_SOURCE:
        check_source(config)
    if command == "label":
        note_other_images(config)
    from hf_relabel.stages.pipeline import run_stages

    job = run_stages(command, config)
    if job.rank.is_main and command == "run":
        from hf_relabel.stages.overlays import draw_overlays

        pictures = draw_overlays(job)
        print("", *after_run(config, pictures), sep="\n")
    return 0


def run_from_python(config: Config | Mapping[str, Any] | str | PathLike[str]) -> "Release":
    """Run all stages for `hf_relabel.run`; returns the release of the configured version.

    Args:
        config: The configuration, nested dictionaries with the settings that differ from the defaults, or a YAML file.

    Raises:
        UsageError: A key or a value is not valid.
        RelabelError: A stage fails.
    """
    settings: Config
    if isinstance(config, Config):
        settings = config
    elif isinstance(config, Mapping):
        settings = parse_tree(COMMANDS["run"], config)
    else:
        settings = parse(COMMANDS["run"], ["--config", fspath(config)])
    check_source(settings)
    from hf_relabel.release.versions import stored_releases
    from hf_relabel.stages.pipeline import run_stages

    run_stages("run", settings)
    return stored_releases(Path(settings.run.dir))[settings.build.version]


def check_source(config: Config) -> None:
    """Refuse a source that is not given or does not exist, before anything heavy is imported.

    Raises:
        UsageError: No path is given.
        SourceError: The path does not exist.
    """
    if not config.source.path and not all(entry.place for entry in split_entries(config.source)):
        raise UsageError("source.path: no dataset is given; set it to an image folder, a dataset's folder or a Hub id")
    for source in split_configs(config.source):
        check_source_path(source)


def note_other_images(config: Config) -> None:
    """Say on stderr that `label` works on the images of its run if the source's path is another one."""
    from hf_relabel.run.snapshot import SNAPSHOT
    from hf_relabel.run.store import read_record

    record = read_record(Path(config.run.dir) / SNAPSHOT) if config.source.path else None
    known = record["settings"].get("path") if record else None
    if known and Path(known).name != Path(config.source.path).resolve().name:
        print(
            f"hf-relabel: note: label works on the images that propose found in {known!r}, not on "
            f"{config.source.path!r}; for other images: hf-relabel run --labeler {config.run.dir} --source.path "
            f"{config.source.path} --run.dir ANOTHER_RUN",
            file=sys.stderr,
        )


def after_run(config: Config, pictures: str) -> list[str]:
    """Describe in a few lines where the release and the pictures are, and which commands come next."""
    from hf_relabel.release.versions import stored_releases

    folder, version = Path(config.run.dir), config.build.version
    stored = stored_releases(folder)[version]
    release = stored.folder
    major, minor, patch = version.split(".")
    another = f"--build.version {major}.{minor}.{int(patch) + 1} --build.threshold 0.7"
    return [
        f"release:  {release}",
        f"pictures: {pictures}",
        "",
        "Next:",
        f"  python -c \"from datasets import load_dataset; print(load_dataset('{release}')['{stored.split}'][0])\"",
        f"  hf-relabel build --config {folder / 'config.yaml'} {another}",
        f"  hf-relabel publish {release} USER/NAME --version {version} --license LICENSE --dry-run",
    ]


def _command(name: str) -> Command[Config]:
    reads = READS.get(name)
    common = ("source.path", "source.kind", "run.dir", *COMMON[name], "run.overwrite")
    return Command(
        name=name,
        summary=SUMMARIES[name],
        settings=Config,
        run=lambda config: run(name, config),
        description=SUMMARIES[name][0].upper() + SUMMARIES[name][1:] + ".",
        dotted=True,
        reads=reads,
        common=tuple(key for key in common if reads is None or is_read(key, reads)),
    )


COMMANDS: dict[str, Command[Any]] = {name: _command(name) for name in SUMMARIES}
