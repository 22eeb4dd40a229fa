"""Start a run, or one of its stages, with many tasks: on this machine, or by Slurm, Ray or Hugging Face Jobs.

hf-relabel launch --engine slurm --tasks 200 --workers 50 -- run --config imagenet.yaml --run.dir runs/imagenet
"""

from hf_relabel.commands.options import Command
from hf_relabel.commands.parser import parse
from hf_relabel.commands.pipeline import COMMANDS as PIPELINE
from hf_relabel.commands.pipeline import READ_THE_SOURCE, check_source
from hf_relabel.errors import UsageError
from hf_relabel.launch.config import LaunchSettings


def run(settings: LaunchSettings) -> int:
    """Run the command; returns the exit status."""
    if not settings.command:
        raise UsageError("launch: what to start is missing; add it after --, such as -- run --config config.yaml")
    name, *arguments = settings.command
    if name not in PIPELINE:
        raise UsageError(f"launch: cannot start {name!r}; after -- must be one of {', '.join(PIPELINE)}")
    config = parse(PIPELINE[name], arguments)
    if name in READ_THE_SOURCE and settings.engine != "hf-jobs":
        check_source(config)
    from hf_relabel.launch.engines import describe, launch, make_jobs, require_engine

    require_engine(settings.engine)
    jobs = make_jobs(name, config, settings)
    if settings.dry_run:
        print(describe(jobs, config, settings))
    else:
        launch(jobs, config, settings)
    return 0


COMMANDS = {
    "launch": Command(
        name="launch",
        summary="start a run with many tasks: on this machine, or by Slurm, Ray or Hugging Face Jobs",
        settings=LaunchSettings,
        run=run,
        description=__doc__ or "",
    )
}
