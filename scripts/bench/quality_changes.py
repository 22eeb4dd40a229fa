"""Proposals of a finished run, changed: to measure what features and proposals are worth without a backbone."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.config import ProposeConfig
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.snapshot import Snapshot
from hf_relabel.run.store import Fingerprint, read_record
from hf_relabel.schema import PROPOSALS
from hf_relabel.vision import masks
from hf_relabel.vision.pooling import pool, pool_views
from hf_relabel.vision.windows import window_masks

Change = Callable[[list[dict[str, Any]], np.ndarray], tuple[list[dict[str, Any]], np.ndarray]]
"""Changes the rows and features of a shard of proposals."""


def share_proposals(run: Path, target: Path) -> None:
    """Let a new run use the proposals of another."""
    target.mkdir(parents=True)
    _snapshot(run).save(target)
    os.symlink((run / "proposals").resolve(), target / "proposals")


def rewrite(run: Path, target: Path, note: str, change: Change) -> None:
    """Write the proposals of a run, changed, as those of a new run; `note` makes them other proposals."""
    manifest = read_record(run / "proposals" / "manifest.json")
    assert manifest is not None
    old = ShardFolder(run / "proposals", "proposals", Fingerprint(manifest["inputs"]))
    target.mkdir(parents=True, exist_ok=True)
    _snapshot(run).save(target)
    new = ShardFolder(target / "proposals", "proposals", Fingerprint({**manifest["inputs"], "changed": note}))
    new.folder.mkdir(exist_ok=True)
    for shard in range(len(manifest["shards"])):
        state = old.state(shard)
        assert state is not None
        rows, features = change(old.read(shard).to_pylist(), np.array(old.features(shard)))
        new.write(shard, pa.Table.from_pylist(rows, schema=PROPOSALS), state.counters, features, state.machine)
    new.write_manifest(lambda shard: manifest["shards"][shard], len(manifest["shards"]))


def _snapshot(run: Path) -> Snapshot:
    snapshot = Snapshot.load(run)
    assert snapshot is not None
    return snapshot


def as_bytes(rows: list[dict[str, Any]], features: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Round features to 8-bit integers with one scale per dimension and shard."""
    values = features.astype(np.float32)
    scale = np.maximum(np.abs(values).max(axis=0), 1e-6) / 127
    return rows, (np.round(values / scale) * scale).astype(np.float16)


def only_maskcut(rows: list[dict[str, Any]], features: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Keep MaskCut's proposals alone: no merged regions, no windows."""
    for row in rows:
        row["windows"] = 0
        row["proposals"] = [proposal for proposal in row["proposals"] if proposal["generator"] == "maskcut"]
    return rows, features


VIEW_DROP = ProposeConfig().view_drop


@dataclass(frozen=True)
class Maps:
    """Feature maps of another network.

    Args:
        values: int8 [images, h * w, dim].
        scale: float [dim].
        place: Index of each image, by the name of its file without a suffix.
    """

    values: np.ndarray
    scale: np.ndarray
    place: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> "Maps":
        """Read a file with `maps`, `scale` and `image_ids`."""
        with np.load(path) as file:
            place = {Path(str(image_id)).stem: number for number, image_id in enumerate(file["image_ids"])}
            return cls(file["maps"], file["scale"].astype(np.float32), place)

    def pool(self, rows: list[dict[str, Any]], _: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Replace the features of a shard by this network's under the same masks."""
        parts: list[torch.Tensor] = []
        count = 0
        for row in rows:
            if row["error"] is not None:
                continue
            patches = self.on_grid(Path(row["image_id"]).stem, tuple(row["grid"]))
            for part, item in self._regions(row, patches):
                item["feature_row" if "feature_row" in item else "window_row"] = count
                parts.append(part)
                count += len(part)
        return rows, torch.cat(parts).numpy().astype(np.float16)

    def on_grid(self, name: str, grid: tuple[int, int]) -> torch.Tensor:
        """An image's map, each patch with the features of the nearest cell, float32 [patches, dim]."""
        values = self.values[self.place[name]].astype(np.float32) * self.scale
        side = round(len(values) ** 0.5)
        cells = values.reshape(side, side, -1)
        down, across = (np.arange(patches) * side // patches for patches in grid)
        return torch.from_numpy(cells[np.ix_(down, across)].reshape(grid[0] * grid[1], -1))

    def _regions(self, row: dict[str, Any], patches: torch.Tensor) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """The features of the whole image, of each proposal with its views, and of the windows; and whose they are."""
        generator = torch.Generator().manual_seed(self.place[Path(row["image_id"]).stem])
        whole, windows = row, {"window_row": -1}
        yield patches.mean(dim=0, keepdim=True), whole
        for proposal in row["proposals"]:
            mask = torch.from_numpy(masks.unpack([proposal["grid_mask"]], tuple(row["grid"]))).flatten(1)
            views = pool_views(patches, mask, proposal["views"], VIEW_DROP, generator)[0]
            yield torch.cat([pool(patches, mask), views]), proposal
        per_side = round(row["windows"] ** 0.5)
        yield pool(patches, torch.from_numpy(window_masks(per_side, tuple(row["grid"]))).flatten(1)), windows
        row["window_row"] = windows["window_row"]
