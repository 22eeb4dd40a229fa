"""A job without images: a source of names and labels, and a proposals stage written from features."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.config import Config, RunConfig
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank
from hf_relabel.run.store import Fingerprint, ShardFolder
from hf_relabel.schema import PROPOSALS
from hf_relabel.vision.masks import encode

BACKBONE = {"model": "test/backbone", "revision": "0" * 40, "image_size": 64, "region_feature": {"kind": "token"}}


@dataclass
class Names:
    """As much of a source as the stages after propose need."""

    image_ids: list[str]
    labels: np.ndarray
    class_names: list[str]
    split: str = "train"
    fingerprint: str = "names"

    def __len__(self) -> int:
        return len(self.image_ids)


def make_job(folder, labels: list[int], classes: int, shard_size: int = 16, threads: int = 1, **sections) -> Job:
    """A job of images named by their number, in `folder`."""
    ids = [f"image-{number:05d}.jpg" for number in range(len(labels))]
    run = RunConfig(dir=str(folder), shard_size=shard_size, max_error_rate=0.2)
    config = Config(run=run, **sections)
    job = Job(config, Rank(0, 1, 1, torch.device("cpu"), threads))
    job.__dict__["source"] = Names(ids, np.array(labels, np.int32), [f"class {k}" for k in range(classes)])
    return job


def write_proposals(job: Job, regions: list[np.ndarray | None], backbone: dict = BACKBONE) -> ShardFolder:
    """Write the proposals stage: of each image the features [1 + proposals, 1 + views, dim], None for an error row."""
    folder = ShardFolder(
        job.stage_folder("proposals"), "proposals", Fingerprint({"backbone": backbone, **job.settings("propose")})
    )
    folder.folder.mkdir(parents=True, exist_ok=True)
    width = next(region.shape[1:] for region in regions if region is not None)
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    for shard in job.shards:
        rows, features = [], [np.zeros((0, *width), np.float16)]
        next_row = 0
        for index in range(shard.start, shard.stop):
            image_id, region = job.source.image_ids[index], regions[index]
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
                    "label": int(job.source.labels[index]),
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
