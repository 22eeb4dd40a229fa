"""A job without images: a source of names and labels, and a proposals stage written from features."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.config import Config, RunConfig
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.snapshot import Snapshot
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import PROPOSALS
from hf_relabel.vision.masks import pack

BACKBONE = {"model": "test/backbone", "revision": "0" * 40, "image_size": 64, "region_feature": {"kind": "token"}}


def make_job(folder, labels: list[int], classes: int, shard_size: int = 16, threads: int = 1, **sections) -> Job:
    """A job in `folder` whose images are named by their numbers; its snapshot is on disk."""
    ids = [f"image-{number:05d}.jpg" for number in range(len(labels))]
    run = RunConfig(dir=str(folder), shard_size=shard_size, max_error_rate=0.2)
    config = Config(run=run, **sections)
    job = Job(config, Rank(0, 1, 1, torch.device("cpu"), threads))
    names = [f"class {k}" for k in range(classes)]
    places = {name: np.zeros(len(ids), np.int64) for name in ("sizes", "modified")}
    settings = {"kind": "folder", "path": "images", "split": "train"}
    snapshot = Snapshot("folder", "train", names, ids, np.array(labels, np.int32), "names", settings, places)
    job.folder.mkdir(parents=True, exist_ok=True)
    snapshot.save(job.folder)
    return job


@dataclass(frozen=True)
class ImageRegions:
    """The stored regions of an image.

    Args:
        whole: Feature of the whole image, [dim].
        proposals: Generator, patches (bool [h, w]) and features ([1 + views, dim]) of each.
        windows: Features of the windows, [windows, dim].
    """

    whole: np.ndarray
    proposals: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)
    windows: np.ndarray | None = None


def maskcut_regions(features: np.ndarray) -> ImageRegions:
    """The whole image and MaskCut's proposals from features [1 + proposals, 1 + views, dim].

    Proposal k covers k + 1 patches of row k of a 4 x 4 grid.
    """
    proposals = []
    for k, feature in enumerate(features[1:]):
        mask = np.zeros((4, 4), bool)
        mask[k, : k + 1] = True
        proposals.append(("maskcut", mask, feature))
    return ImageRegions(features[0, 0], proposals)


def write_proposals(job: Job, images: list[ImageRegions | np.ndarray | None], backbone: dict = BACKBONE) -> ShardFolder:
    """Write the proposals stage.

    Args:
        job: The job, with as many images.
        images: The regions of each image, or features for `maskcut_regions`; None for an error row.
        backbone: The recorded identity of the backbone.
    """
    stored = [maskcut_regions(image) if isinstance(image, np.ndarray) else image for image in images]
    known = [image for image in stored if image is not None]
    masks = [mask for image in known for _, mask, _ in image.proposals]
    grid = masks[0].shape if masks else (4, 4)
    inputs = {
        "source": job.snapshot.fingerprint,
        "backbone": backbone,
        **job.settings("propose"),
        "run": {"seed": job.config.run.seed, "shard_size": job.config.run.shard_size},
    }
    views = max((len(features) - 1 for image in known for _, _, features in image.proposals), default=0)
    inputs["propose"] |= {"views": views}
    folder = ShardFolder(job.stage_folder("proposals"), "proposals", Fingerprint(inputs))
    folder.folder.mkdir(parents=True, exist_ok=True)
    for shard in job.shards:
        rows, features = [], [np.zeros((0, len(known[0].whole)), np.float16)]
        for index in range(shard.start, shard.stop):
            row = {
                "image_id": job.snapshot.image_ids[index],
                "split": "train",
                "label": int(job.snapshot.labels[index]),
                "sha256": hashlib.sha256(job.snapshot.image_ids[index].encode()).hexdigest(),
                **_stored(job.snapshot.image_ids[index], stored[index], grid, sum(map(len, features))),
            }
            rows.append(row)
            if (image := stored[index]) is not None:
                windows = image.windows if image.windows is not None else np.zeros((0, len(image.whole)))
                parts = [image.whole[None], *(feature for _, _, feature in image.proposals), windows]
                features.append(np.concatenate(parts).astype(np.float16))
        table = pa.Table.from_pylist(rows, schema=PROPOSALS)
        folder.write(shard.index, table, {"images": len(shard)}, np.concatenate(features))
    folder.write_manifest(lambda index: len(job.shards[index]), len(job.shards))
    return folder


def _stored(image_id: str, image: ImageRegions | None, grid: tuple[int, int], first: int) -> dict[str, Any]:
    """What a row of the stage says about the regions of an image whose features begin at row `first`."""
    if image is None:
        nothing = {"grid": [], "feature_row": -1, "window_row": -1, "windows": 0, "proposals": []}
        return {"width": 0, "height": 0, "error": "cannot identify image file", "sha256": None, **nothing}
    proposals, next_row = [], first + 1
    for number, (generator, mask, features) in enumerate(image.proposals):
        proposals.append(
            {
                "proposal_id": f"{image_id}#{number}",
                "generator": generator,
                "feature_row": next_row,
                "views": len(features) - 1,
                "patches": int(mask.sum()),
                "grid_mask": pack(mask),
                "segmentation": None,
            }
        )
        next_row += len(features)
    return {
        "width": 4 * grid[1],
        "height": 4 * grid[0],
        "error": None,
        "grid": list(grid),
        "feature_row": first,
        "window_row": next_row,
        "windows": 0 if image.windows is None else len(image.windows),
        "proposals": proposals,
    }


def easy_regions(
    labels: list[int], classes: int, views: int = 2, noise: float = 0.3, seed: int = 0
) -> list[np.ndarray]:
    """One proposal per image that shows its label and one that shows nothing: features [3, 1 + views, 8]."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, 8)) * 3
    found = []
    for name in labels:
        features = np.stack([centers[name] / 2, centers[name], np.zeros(8)])
        found.append(features[:, None] + rng.normal(size=(3, 1 + views, 8)) * noise)
    return found


def write_empty_label_maps(job: Job, folder: Path) -> None:
    """Label maps of the job's images that support no class."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in job.snapshot.image_ids:
        torch.save(torch.zeros(2, 5, 15, 15), folder / image_id.replace(".jpg", ".pt"))


def rows_of(job: Job, stage: str, command: str) -> list[dict[str, Any]]:
    """All rows of a finished stage, image by image."""
    folder, _ = job.finished(stage, command)
    return [row for shard in job.shards for row in folder.read(shard.index).to_pylist()]
