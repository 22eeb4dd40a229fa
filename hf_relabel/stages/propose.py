"""Propose: one backbone forward pass per image gives MaskCut its patches and every region its pooled features.

With `propose.masks` the masks come from a file instead, and the backbone gives their features.

The tables do not depend on the number of processes or on interruptions, nor on a CPU on the batch size. Another type
of CPU or GPU rounds differently, so the manifest records which machines computed the shards.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hf_relabel.errors import StageError
from hf_relabel.formats.given_masks import GivenMasks, MaskError, identity_of
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import thread_pool
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import Shard, ShardResult
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import PROPOSALS
from hf_relabel.sources.loader import Batch, BatchLoader, Decoded
from hf_relabel.stages.copies import with_note
from hf_relabel.vision import allocator, masks, onednn
from hf_relabel.vision.backbone import Backbone
from hf_relabel.vision.maskcut import start_maskcut
from hf_relabel.vision.merging import merge_masks
from hf_relabel.vision.pair import BackbonePair, identify_backbone, load_backbone
from hf_relabel.vision.pooling import pool, pool_views
from hf_relabel.vision.windows import window_masks

STAGE = "proposals"

ALGORITHM = 2
"""Raise it when a change of the code changes the proposals or their features."""

EMPTY = "mask empty at the image's size"
TWICE = "mask occurs twice"

WORKERS = 8
"""Maximum number of processes that decode images for a GPU; an image takes about a dozen milliseconds."""

BATCHES_IN_WORK = 2
"""Batches whose masks are still being made while a GPU computes the next one."""

JUDGED_IMAGES = 64
"""The first readable images of the first shard; if none of them has a proposal, the settings cannot be right."""

MIN_JUDGED_IMAGES = 32
"""With fewer readable images in the first shard nothing is concluded."""


def run(job: Job) -> dict[str, Any]:
    """Propose regions for every image; returns the stage's manifest.

    The configuration must not leave to the model what depends on it (`vision.families.resolve`).
    """
    config = job.config
    snapshot = job.take_snapshot()
    inputs = {
        "algorithm": ALGORITHM,
        "source": snapshot.fingerprint,
        "backbone": identify_backbone(config.backbone),
        "propose": _settings(job),
        "run": {"seed": config.run.seed, "shard_size": config.run.shard_size},
    }
    folder = ShardFolder(job.stage_folder(STAGE), STAGE, Fingerprint(inputs))
    if (manifest := job.existing(folder)) is not None:
        return with_note(job, folder, manifest)
    given = None
    if config.propose.masks:
        given = GivenMasks.open(config.propose.masks, snapshot.image_ids, config.propose.masks_orientation)
    if given is not None and job.rank.is_main:
        given.warn_of_left_out()
    with thread_pool(job.rank.threads) as threads:
        backbone = load_backbone(config.backbone, job.rank.device)
        return with_note(job, folder, job.run_shards(folder, Proposer(job, backbone, threads, given).process))


def _settings(job: Job) -> dict[str, Any]:
    """The settings that determine the proposals: MaskCut's, or the identity of the file that has the masks."""
    settings = job.settings("propose")["propose"]
    file = settings.pop("masks")
    if file is None:
        del settings["masks_orientation"]
        return settings
    kept = ("windows", "views", "view_drop", "masks_orientation")
    return {"masks": identity_of(file)} | {key: settings[key] for key in kept}


Patches = tuple[torch.Tensor, torch.Tensor]
"""An image's patches, float32 [n, dim]: those that are pooled under the masks, and those that are merged."""

Cut = Callable[[], np.ndarray]
"""Gives MaskCut's masks of an image on the grid, bool [k, h, w]."""


@dataclass(frozen=True)
class Proposal:
    """A class-agnostic mask of an image.

    Args:
        generator: Where it comes from, one of `schema.GENERATORS`.
        mask: Its patches, bool [h, w], not empty.
        has_views: Whether features with patches dropped are stored for it, to train the labeler on.
        segmentation: COCO RLE of its exact outline; None where that is the enlarged mask.
    """

    generator: str
    mask: np.ndarray
    has_views: bool
    segmentation: masks.RLE | None = None


def describe_machine(device: torch.device, dtype: str) -> str:
    """The device, its instruction set and the library of its matrix products: what rounding depends on."""
    if device.type != "cpu":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    is_onednn = dtype == "float32" and onednn.is_faster(device)
    products = "oneDNN" if is_onednn else "MKL" if torch.backends.mkl.is_available() else "PyTorch's BLAS"
    return f"CPU {torch.backends.cpu.get_cpu_capability()}, {products}, torch {torch.__version__}"


@dataclass(frozen=True)
class Proposed:
    """The proposals of one image.

    Args:
        row: Its row of `schema.PROPOSALS`, with rows of features counted from the image's first.
        features: The features of its regions (`schema.FEATURES`), float16 [rows, dim]; None in an error row.
        dropped: Number of the image's masks that became no proposal, by reason.
    """

    row: dict[str, Any]
    features: np.ndarray | None
    dropped: Counter[str] = field(default_factory=Counter)


class Proposer:
    """Makes the proposals of a shard.

    On a GPU a batch is one forward pass, and threads make the masks while the next batch is computed.
    On a CPU each image is its own batch, and one thread does all of its work.
    """

    def __init__(
        self, job: Job, backbone: Backbone | BackbonePair, threads: ThreadPoolExecutor, given: GivenMasks | None = None
    ):
        """`threads` has as many threads as `job.rank`; `given` masks are used instead of MaskCut's."""
        run = job.config.run
        on_cpu = job.rank.device.type == "cpu"
        if on_cpu:
            allocator.keep_large_blocks()
        self.job = job
        self.backbone = backbone
        self.threads = threads
        self.given = given
        self._uses_maskcut = given is None and "maskcut" in job.config.propose.generators
        self._generators = ["file"] if given is not None else job.config.propose.generators
        self._windows = window_masks(job.config.propose.windows, backbone.grid)
        self._start = self._start_on_cpu if on_cpu else self._start_on_device
        self._in_work = 2 * job.rank.threads if on_cpu else BATCHES_IN_WORK
        spare = 0 if on_cpu else min(WORKERS, job.rank.threads)
        self._loader = BatchLoader(
            job.source,
            backbone.preprocess,
            side=backbone.preprocess.side,
            batch_size=1 if on_cpu else run.batch_size,
            workers=spare if run.workers is None else run.workers,
            pin=not on_cpu,
        )

    def process(self, shard: Shard, tick: Callable[[int], None]) -> ShardResult:
        """Propose regions for a shard's images.

        Raises:
            StageError: The first readable images of the first shard have no proposal.
        """
        results: list[Proposed] = []
        judged = 0
        in_work: deque[Callable[[], list[Proposed]]] = deque()

        def finish(left: int) -> None:
            nonlocal judged
            while len(in_work) > left:
                done = in_work.popleft()()
                results.extend(done)
                tick(len(done))
                if shard.index == 0 and judged < JUDGED_IMAGES:
                    judged = self._judge(results, JUDGED_IMAGES)

        for batch in self._loader.read(range(shard.start, shard.stop)):
            in_work.append(self._start(batch))
            finish(self._in_work)
        finish(0)
        if shard.index == 0:
            self._judge(results, MIN_JUDGED_IMAGES)
        return self._collect(results)

    def _judge(self, results: list[Proposed], enough: int) -> int:
        """Count the readable images so far; raise StageError if there are enough and none has a proposal."""
        read = [result for result in results if result.row["error"] is None][:JUDGED_IMAGES]
        if self.given is None and len(read) >= enough and not any(result.row["proposals"] for result in read):
            config = self.job.config
            feature = self.backbone.identity["proposal_feature"]
            raise StageError(
                f"none of the first {len(read)} images has a proposal: propose.tau {config.propose.tau} does not suit "
                f"{config.backbone.model}; try another --propose.tau, or another feature with "
                f"--backbone.proposal_feature.kind (now {feature['kind']}) and "
                f"--backbone.proposal_feature.block (now {feature['block']})"
            )
        return len(read)

    def _start_on_cpu(self, batch: Batch) -> Callable[[], list[Proposed]]:
        def work() -> list[Proposed]:
            return [self._describe(*parts) for parts in self._parts(batch)]

        return self.threads.submit(work).result

    def _start_on_device(self, batch: Batch) -> Callable[[], list[Proposed]]:
        described = [self.threads.submit(self._describe, *parts) for parts in self._parts(batch)]
        return lambda: [future.result() for future in described]

    def _parts(self, batch: Batch) -> list[tuple[Decoded, Cut | None, Patches | None]]:
        """For each image of a batch: what gives MaskCut's masks, and the patches.

        There are no such masks where features are not finite, masks are given, or MaskCut is not a generator.
        """
        if batch.pixels is None:
            return [(image, None, None) for image in batch.images]
        features = self.backbone(batch.pixels)
        cuts = self._cut(features.proposal) if self._uses_maskcut else [None] * len(features.region)
        merging = features.region if features.merging is None else features.merging
        found = iter(zip(cuts, zip(features.region, merging, strict=True), strict=True))
        return [(image, *(next(found) if image.error is None else (None, None))) for image in batch.images]

    def _cut(self, patches: torch.Tensor) -> list[Cut | None]:
        """MaskCut of a batch, float32 [B, n, C]."""
        settings = self.job.config.propose
        assert settings.tau is not None
        return start_maskcut(patches, self.backbone.grid, tau=settings.tau, max_masks=settings.max_masks)

    def _describe(self, item: Decoded, cut: Cut | None, both: Patches | None) -> Proposed:
        """The proposals and pooled features of an image, from what `_parts` gives."""
        if item.error is not None:
            return self._error_row(item.index, item.error)
        if (cut is None and self._uses_maskcut) or both is None or not all(part.isfinite().all() for part in both):
            return self._error_row(item.index, "the backbone's features are not finite")
        patches, merging = both
        dropped: Counter[str] = Counter()
        try:
            found = list(self._generate(item, cut() if cut else None, merging, dropped))
        except MaskError as error:
            return self._error_row(item.index, str(error))
        settings = self.job.config.propose
        image_id = self.job.source.image_ids[item.index]
        viewed = sum(proposal.has_views for proposal in found)  # the first proposals
        regions = np.concatenate(
            [np.ones((1, *self.backbone.grid), bool), *(p.mask[None] for p in found), self._windows]
        )
        under = torch.from_numpy(regions).flatten(1)  # [1 + proposals + windows, n]
        pooled, end = pool(patches, under), 1 + viewed
        views = pool_views(patches, under[1:end], settings.views, settings.view_drop, self._generator(item.sha256))
        with_views = torch.cat([pooled[1:end, None], views], dim=1).flatten(0, 1)
        features = torch.cat([pooled[:1], with_views, pooled[end:]])
        features = features.to(torch.float16).cpu()
        if not torch.isfinite(features).all():
            return self._error_row(item.index, "the pooled features do not fit float16")
        proposals, next_row = [], 1
        for number, proposal in enumerate(found):
            count = settings.views if proposal.has_views else 0
            proposals.append(
                {
                    "proposal_id": f"{image_id}#{number}",
                    "generator": proposal.generator,
                    "feature_row": next_row,
                    "views": count,
                    "patches": masks.area(proposal.mask),
                    "grid_mask": masks.pack(proposal.mask),
                    "segmentation": proposal.segmentation,
                }
            )
            next_row += 1 + count
        row = self._row(item.index, item.width, item.height, None, proposals)
        row |= {
            "sha256": item.sha256,
            "grid": list(self.backbone.grid),
            "window_row": next_row,
            "windows": len(self._windows),
        }
        return Proposed(row, features.numpy(), dropped)

    def _generate(
        self, item: Decoded, cut: np.ndarray | None, patches: torch.Tensor, dropped: Counter[str]
    ) -> Iterator[Proposal]:
        """The proposals of an image; those that would be empty at its size are counted in `dropped`."""
        if self.given is not None:
            yield from self._given_masks(item, dropped)
            return
        settings, size = self.job.config.propose, (item.width, item.height)
        found = []
        if cut is not None:
            found += [Proposal("maskcut", masks.fill_holes(mask), has_views=True) for mask in cut]
        if "merge" in settings.generators:
            others = np.stack([proposal.mask for proposal in found]) if found else None
            merged = merge_masks(patches.cpu().numpy(), self.backbone.grid, settings.merge_masks, others)
            found += [Proposal("merge", mask, has_views=cut is None) for mask in merged]
        for proposal in found:
            if masks.vanishes(proposal.mask, size):
                dropped[EMPTY] += 1
            else:
                yield proposal

    def _given_masks(self, item: Decoded, dropped: Counter[str]) -> Iterator[Proposal]:
        """The file's masks of an image, with their exact outlines.

        A mask that occurs twice is one proposal: an exported release has it for each label that it shows.
        """
        assert self.given is not None
        image_id = self.job.source.image_ids[item.index]
        seen: set[str] = set()
        for picture in self.given.of(image_id, item.height, item.width, dropped, item.orientation):
            outline = masks.encode(picture)
            if not picture.any():
                dropped[EMPTY] += 1
            elif outline["counts"] in seen:
                dropped[TWICE] += 1
            else:
                seen.add(outline["counts"])
                on_grid = masks.to_grid(picture, self.backbone.grid)
                yield Proposal("file", on_grid, has_views=True, segmentation=outline)

    def _generator(self, sha256: str | None) -> torch.Generator:
        """Random numbers that depend on the image, not on its name, its place in a batch or the rank."""
        digest = hashlib.sha256(f"{self.job.config.run.seed}:{sha256}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def _error_row(self, index: int, error: str | None) -> Proposed:
        return Proposed(self._row(index, 0, 0, error, []), None)

    def _row(self, index: int, width: int, height: int, error: str | None, proposals: list) -> dict[str, Any]:
        return {
            "image_id": self.job.source.image_ids[index],
            "split": self.job.source.split_of(index),
            "label": int(self.job.source.labels[index]),
            "width": width,
            "height": height,
            "sha256": None,
            "error": error,
            "grid": [],
            "feature_row": -1,
            "window_row": -1,
            "windows": 0,
            "proposals": proposals,
        }

    def _collect(self, results: list[Proposed]) -> ShardResult:
        rows: list[dict[str, Any]] = []
        features: list[np.ndarray] = []
        next_row = 0
        for result in results:
            if result.features is not None:
                _shift_rows(result.row, next_row)
                features.append(result.features)
                next_row += len(result.features)
            rows.append(result.row)
        dropped = Counter({EMPTY: 0})
        for result in results:
            dropped.update(result.dropped)
        empty = np.zeros((0, self.backbone.region_dim), np.float16)
        generators = Counter(proposal["generator"] for row in rows for proposal in row["proposals"])
        return ShardResult(
            pa.Table.from_pylist(rows, schema=PROPOSALS),
            errors=sum(result.row["error"] is not None for result in results),
            features=np.concatenate(features) if features else empty,
            machine=describe_machine(self.job.rank.device, self.job.config.backbone.dtype),
            counters={
                "proposals": generators.total(),
                **{f"proposals by {generator}": generators[generator] for generator in self._generators},
                "images without proposals": sum(
                    not result.row["proposals"] and result.row["error"] is None for result in results
                ),
                **{f"dropped: {reason}": count for reason, count in dropped.items()},
            },
        )


def _shift_rows(row: dict[str, Any], by: int) -> None:
    """Count an image's rows of features from the shard's first instead of the image's own."""
    row["feature_row"] = by
    row["window_row"] += by
    for proposal in row["proposals"]:
        proposal["feature_row"] += by
