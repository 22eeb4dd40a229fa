"""Exact copies among the images: files with the same SHA-256, by the labels that they were given.

They change no table: a copy with another label is an error of the source, or an image of several classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel.run.job import Job
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import read_record, write_record
from hf_relabel.schema import NO_LABEL

RECORD = "copies.json"
"""File in the stage's folder with what was found, so that the proposals are read for it only once."""

UNREADABLE = 0
"""Instead of the hash of an image that could not be read."""

EXAMPLES = 20
"""Groups of copies with different labels in the record."""


def with_note(job: Job, proposals: ShardFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the proposals; for the main process with a note if some images are exact copies."""
    if not job.rank.is_main:
        return manifest
    path, key = proposals.folder / RECORD, {"digest": manifest["digest"], "images": sum(manifest["shards"])}
    found = read_record(path)
    if found is None or any(found.get(name) != value for name, value in key.items()):
        found = key | find_copies(proposals, manifest["shards"])
        write_record(path, found)
    said = []
    if found["other_label"]:
        such = " = ".join(map(repr, found["groups"][0][:2]))
        said.append(f"{found['other_label']:,} with different labels (such as {such}; see {path})")
    if found["same_label"]:
        said.append(f"{found['same_label']:,} with the same label as another")
    return manifest | {"note": f"exact copies among the images: {', '.join(said)}"} if said else manifest


def find_copies(proposals: ShardFolder, sizes: Sequence[int]) -> dict[str, Any]:
    """Find the images with the same bytes; takes 8 bytes of memory per image, and more for copies alone.

    Args:
        proposals: The finished stage.
        sizes: Number of images of each of its shards.

    Returns:
        `other_label`: number of images with a copy that has another label; `same_label`: number of further images with
        the label of a copy; `groups`: ids of the first groups with different labels, each in the order of the images.
    """
    keys, stop = np.empty(sum(sizes), np.uint64), 0
    for shard, size in enumerate(sizes):
        keys[stop : stop + size] = _keys(proposals.read(shard, ["sha256"]))
        stop += size
    keys.sort()
    repeated = np.unique(keys[1:][(keys[1:] == keys[:-1]) & (keys[1:] != UNREADABLE)])
    groups: dict[str, dict[int, list[str]]] = {}
    for shard in range(len(sizes)) if len(repeated) else ():
        table = proposals.read(shard, ["sha256", "label", "image_id"])
        for row in table.filter(pa.array(np.isin(_keys(table), repeated))).to_pylist():
            groups.setdefault(row["sha256"], {}).setdefault(row["label"], []).append(row["image_id"])
    differing = [labels for labels in groups.values() if len(labels.keys() - {NO_LABEL}) > 1]
    return {
        "other_label": sum(len(ids) for labels in differing for label, ids in labels.items() if label != NO_LABEL),
        "same_label": sum(len(ids) - 1 for labels in groups.values() for ids in labels.values()),
        "groups": [[ids[0] for ids in labels.values()] for labels in differing[:EXAMPLES]],
    }


def _keys(table: pa.Table) -> np.ndarray:
    """The first 8 bytes of each image's hash, uint64 [N]."""
    values = table["sha256"].to_pylist()
    return np.array([UNREADABLE if value is None else int(value[:16], 16) for value in values], np.uint64)
