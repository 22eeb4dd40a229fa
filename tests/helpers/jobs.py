"""A job without images: a source of names and labels, and a proposals stage written from features."""

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
from hf_relabel.vision.masks import encode

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


def write_proposals(job: Job, regions: list[np.ndarray | None], backbone: dict = BACKBONE) -> ShardFolder:
    """Write the proposals stage: of each image the features [1 + proposals, 1 + views, dim], None for an error row."""
    inputs = {
        "source": job.snapshot.fingerprint,
        "backbone": backbone,
        **job.settings("propose"),
        "run": {"seed": job.config.run.seed, "shard_size": job.config.run.shard_size},
    }
    folder = ShardFolder(job.stage_folder("proposals"), "proposals", Fingerprint(inputs))
    folder.folder.mkdir(parents=True, exist_ok=True)
    width = next(region.shape[1:] for region in regions if region is not None)
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    for shard in job.shards:
        rows, features = [], [np.zeros((0, *width), np.float16)]
        next_row = 0
        for index in range(shard.start, shard.stop):
            image_id, region = job.snapshot.image_ids[index], regions[index]
            count = 0 if region is None else len(region) - 1
            proposals = [
                {
                    "proposal_id": f"{image_id}#{k}",
                    "bbox": [0.0, 0.0, 4.0, 2.0],
                    "area": 8,
                    "patches": k + 1,
                    "segmentation": encode(mask),
                }
                for k in range(count)
            ]
            rows.append(
                {
                    "image_id": image_id,
                    "split": "train",
                    "label": int(job.snapshot.labels[index]),
                    "width": 4,
                    "height": 4,
                    "error": "cannot identify image file" if region is None else None,
                    "feature_row": -1 if region is None else next_row,
                    "proposals": proposals,
                }
            )
            if region is not None:
                features.append(region.astype(np.float16))
                next_row += len(region)
        table = pa.Table.from_pylist(rows, schema=PROPOSALS)
        folder.write(shard.index, table, {"images": len(shard)}, np.concatenate(features))
    folder.write_manifest(lambda index: len(job.shards[index]), len(job.shards))
    return folder
