"""The whole pipeline on generated scenes with known truth: the embedded default, which needs no download.

Scenes of one to three emoji, of which only one object's class is given, and a real ViT go through the same stages as
a real job. Everything lies below one folder; a second run takes up what is there.
"""

import argparse
from itertools import islice
from pathlib import Path

from hf_relabel.config import (
    BackboneConfig,
    BuildConfig,
    Config,
    FeatureConfig,
    ProposeConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
)

OVERLAYS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--scenes", type=int, default=400, help="scenes to generate (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes and of the run (default: 0)")
    parser.add_argument("--dir", default="runs/demo", help="folder of the run (default: runs/demo)")
    parser.add_argument("--overwrite", action="store_true", help="redo work that was made with other settings")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.demo.checkpoint import ensure_checkpoint
    from hf_relabel.demo.scenes import make_scenes
    from hf_relabel.demo.truth import read_release, read_truth, score_against_truth
    from hf_relabel.stages.pipeline import run_command

    folder = Path(args.dir)
    checkpoint = ensure_checkpoint()
    make_scenes(folder, args.scenes, args.seed)
    config = demo_config(folder, checkpoint, args.seed, args.overwrite)
    run_command("run", config)
    class_names, rows = read_release(folder / "release")
    score = score_against_truth(read_truth(folder / "truth.jsonl"), rows, class_names, config.build.threshold)
    write_overlays(folder)
    print("", *score.lines(), "", *_next_steps(folder), sep="\n")
    return 0


def demo_config(folder: Path, checkpoint: Path, seed: int = 0, overwrite: bool = False) -> Config:
    """The demo's settings: those of the real job, but for what belongs to its backbone and its size."""
    return Config(
        source=SourceConfig(path=str(folder / "images")),
        backbone=BackboneConfig(
            model=str(checkpoint),
            image_size=280,
            # This backbone was tuned for saliency: its last block cuts best, and two blocks earlier it names best.
            proposal_feature=FeatureConfig(kind="token", block=-1, norm=True),
            region_feature=FeatureConfig(kind="token", block=-3, norm=True),
        ),
        propose=ProposeConfig(tau=0.3, max_masks=4),
        # Some hundred regions, not millions: smaller steps, and more of them, and a stronger dropout.
        train=TrainConfig(standardise=True, lr=1e-3, batch_size=64, dropout=0.5),
        build=BuildConfig(name="hf_relabel demo"),
        run=RunConfig(dir=str(folder), shard_size=50, seed=seed, overwrite=overwrite),
    )


def write_overlays(folder: Path) -> None:
    """Draw scenes from the whole release with their regions, one picture each and a sheet of them, in `overlays/`."""
    from PIL import Image

    from hf_relabel.demo.truth import read_release, read_truth
    from hf_relabel.pictures.overlays import contact_sheet, draw_overlay

    class_names, rows = read_release(folder / "release")
    scenes = read_truth(folder / "truth.jsonl")
    given = {scene["image_id"]: scene["label"] for scene in scenes}
    pictures, captions = [], []
    (folder / "overlays").mkdir(exist_ok=True)
    for row in islice(rows, 0, None, max(1, len(scenes) // OVERLAYS)):
        with Image.open(folder / "images" / row["image_id"]) as image:
            picture = draw_overlay(image.convert("RGB"), row["regions"], class_names)
        picture.save((folder / "overlays" / row["image_id"].replace("/", "-")).with_suffix(".jpg"), quality=90)
        pictures.append(picture)
        found = ", ".join(class_names[label] for label in row["labels"])
        captions.append((f"given: {given[row['image_id']]}", f"now: {found}"))
    contact_sheet(pictures, captions=captions).save(folder / "overlays" / "sheet.png")


def _next_steps(folder: Path) -> list[str]:
    return [
        f"release:  {folder / 'release'}",
        f"pictures: {folder / 'overlays' / 'sheet.png'}",
        "",
        "Go on with:",
        f"  python -c \"from datasets import load_dataset; print(load_dataset('{folder / 'release'}')['train'][0])\"",
        f"  hf-relabel build --config {folder / 'config.yaml'} --build.version 1.0.1 --build.threshold 0.7",
        "  accelerate launch -m hf_relabel run --config scripts/configs/imagenet.yaml --source.path IMAGENET/train",
    ]
