"""The whole pipeline on generated scenes with known truth: the built-in default, which needs no download.

Scenes of one to three emoji, with the class of only one object given, and a real ViT go through the same stages as a
real job. Everything is written below one folder; a second run resumes from what is there.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hf_relabel.commands.options import Command, option
from hf_relabel.commands.pipeline import after_run
from hf_relabel.config import (
    BackboneConfig,
    BuildConfig,
    Config,
    FeatureConfig,
    ProposeConfig,
    RunConfig,
    SourceConfig,
)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Demo.

    Args:
        scenes: Scenes to generate.
        seed: Seed of the scenes and of the run.
        dir: Folder of the run.
        overwrite: Redo work that was made with other settings.
    """

    scenes: int = 400
    seed: int = 0
    dir: str = option("runs/demo", "FOLDER")
    overwrite: bool = False


def run(settings: DemoSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.demo.checkpoint import ensure_checkpoint
    from hf_relabel.demo.scenes import make_scenes
    from hf_relabel.demo.score import read_scenes, score_against_truth
    from hf_relabel.release.reader import Release
    from hf_relabel.release.versions import EARLIER, LATEST
    from hf_relabel.stages.overlays import draw_overlays
    from hf_relabel.stages.pipeline import run_stages

    folder = Path(settings.dir)
    if settings.overwrite:
        for name in (LATEST, EARLIER):  # a version is never replaced, so the demo starts without any
            shutil.rmtree(folder / name, ignore_errors=True)
    checkpoint = ensure_checkpoint()
    make_scenes(folder, settings.scenes, settings.seed)
    config = demo_config(folder, checkpoint, settings.seed, settings.overwrite)
    job = run_stages("run", config)
    if job.rank.is_main:
        release = Release.open(folder / LATEST)
        scenes = read_scenes(folder / "truth.jsonl")
        score = score_against_truth(scenes, release.rows("regions"), release.class_names)
        print("", *score.lines(), "", *after_run(config, draw_overlays(job)), sep="\n")
    return 0


def demo_config(folder: Path, checkpoint: Path, seed: int = 0, overwrite: bool = False) -> Config:
    """Return the demo's settings: those of a real job, except what depends on its backbone and its size."""
    return Config(
        source=SourceConfig(path=str(folder / "images")),
        backbone=BackboneConfig(
            model=str(checkpoint),
            image_size=280,
            # This backbone was tuned for saliency: MaskCut works best on its last block, the labeler two blocks before.
            proposal_feature=FeatureConfig(kind="token", block=-1, norm=True),
            region_feature=FeatureConfig(kind="token", block=-3, norm=True),
        ),
        propose=ProposeConfig(tau=0.3, max_masks=4),
        build=BuildConfig(name="hf_relabel demo"),
        run=RunConfig(dir=str(folder), shard_size=50, seed=seed, overwrite=overwrite),
    )


COMMANDS = {
    "demo": Command(
        name="demo",
        summary="run the pipeline on generated scenes and compare it with their known truth",
        settings=DemoSettings,
        run=run,
        description=__doc__ or "",
    )
}
