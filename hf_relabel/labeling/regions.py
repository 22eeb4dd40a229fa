"""The regions of a shard as arrays: its proposals and windows, with their patches and features."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.schema import GENERATORS
from hf_relabel.vision.masks import unpack
from hf_relabel.vision.windows import window_masks

KINDS = (*GENERATORS, "window")
"""Kinds of region: what generated a proposal, or a window."""

WINDOW = KINDS.index("window")


@dataclass(frozen=True)
class ShardRegions:
    """The n regions of the images of a shard: image by image, the proposals in their order and then the windows.

    Args:
        image_ids: Id of each image.
        sha256: Hash of each image's file; None if it could not be read.
        label: Given label of each image, int64 [images].
        is_read: Whether each image could be read, bool [images].
        grid: Patches down and across.
        image: Index in `image_ids` of each region's image, ascending, int64 [n].
        number: Number of each region among its image's proposals, or among its windows, int64 [n].
        kind: Index in `KINDS`, int64 [n].
        masks: Patches of each region, bool [n, patches].
        features: Pooled feature of each region, float16 [n, dim].
    """

    image_ids: list[str]
    sha256: list[str | None]
    label: np.ndarray
    is_read: np.ndarray
    grid: tuple[int, int]
    image: np.ndarray
    number: np.ndarray
    kind: np.ndarray
    masks: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @property
    def given(self) -> np.ndarray:
        """Given label of each region's image, int64 [n]."""
        return self.label[self.image]

    @property
    def is_window(self) -> np.ndarray:
        """Whether each region is a window, bool [n]."""
        return self.kind == WINDOW


COLUMNS = [
    "image_id",
    "sha256",
    "label",
    "grid",
    "feature_row",
    "window_row",
    "windows",
    "proposals.list.element.generator",
    "proposals.list.element.feature_row",
    "proposals.list.element.grid_mask",
]


@dataclass(frozen=True)
class ShardLayout:
    """What the table of a shard says about its regions: all but their features, with the masks packed.

    Args:
        regions: The regions, with `masks` and `features` empty.
        packed: Masks, 8 patches per byte, uint8 [n, ceil(patches / 8)].
        rows: Rows of the shard's features, int64 [n].
    """

    regions: ShardRegions
    packed: np.ndarray
    rows: np.ndarray

    @property
    def nbytes(self) -> int:
        """Size in memory, without the image ids."""
        arrays = (self.regions.image, self.regions.number, self.regions.kind, self.packed, self.rows)
        return sum(array.nbytes for array in arrays)

    def load(self, features: np.ndarray) -> ShardRegions:
        """The regions with their features, taken from the shard's, float16 [rows, dim]."""
        patches = self.regions.grid[0] * self.regions.grid[1]
        masks = np.unpackbits(self.packed, axis=1, count=patches).astype(bool)
        return replace(self.regions, masks=masks, features=np.array(features[self.rows]))


def read_regions(proposals: ShardFolder, shard: int) -> ShardRegions:
    """Read the regions of a shard; images that could not be read have none."""
    return read_layout(proposals, shard).load(proposals.features(shard))


def read_layout(proposals: ShardFolder, shard: int) -> ShardLayout:
    """Read what the table of a shard says about its regions."""
    return layout_of(proposals.read(shard, COLUMNS))


def layout_of(table: pa.Table) -> ShardLayout:
    """What a shard's table (`schema.PROPOSALS`, at least the columns `COLUMNS`) says about its regions."""
    table = table.combine_chunks()
    stored = _column(table, "proposals")
    counts = pc.list_value_length(stored).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    windows = _column(table, "windows").to_numpy().astype(np.int64)
    grids = [tuple(grid) for grid in table["grid"].to_pylist() if grid]
    grid = grids[0] if grids else (1, 1)
    patches = grid[0] * grid[1]
    items = stored.flatten()
    generator = pc.index_in(pc.struct_field(items, "generator"), pa.array(KINDS)).to_numpy(zero_copy_only=False)
    first_window = _column(table, "window_row").to_numpy().astype(np.int64)
    images = np.arange(len(table))
    window_number = _ranges(windows)
    per_side = round(float(windows.max(initial=0)) ** 0.5)
    image = np.concatenate([np.repeat(images, counts), np.repeat(images, windows)])
    order = np.argsort(image, kind="stable")  # proposals before windows within each image
    rows = np.concatenate([_numbers(items, "feature_row"), np.repeat(first_window, windows) + window_number])
    masks = np.concatenate(
        [
            unpack(pc.struct_field(items, "grid_mask").to_pylist(), grid).reshape(len(items), patches),
            window_masks(per_side, grid).reshape(per_side**2, patches)[window_number],
        ]
    )
    regions = ShardRegions(
        image_ids=table["image_id"].to_pylist(),
        sha256=table["sha256"].to_pylist(),
        label=_column(table, "label").to_numpy().astype(np.int64),
        is_read=_column(table, "feature_row").to_numpy() >= 0,
        grid=grid,
        image=image[order],
        number=np.concatenate([_ranges(counts), window_number])[order],
        kind=np.concatenate([generator.astype(np.int64), np.full(len(window_number), WINDOW)])[order],
        masks=np.zeros((0, patches), bool),
        features=np.zeros((0, 0), np.float16),
    )
    return ShardLayout(regions, np.packbits(masks[order], axis=1), rows[order])


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _numbers(items: pa.StructArray, name: str) -> np.ndarray:
    return pc.struct_field(items, name).to_numpy(zero_copy_only=False).astype(np.int64)


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... for each count, one range after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
