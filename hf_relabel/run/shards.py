"""Shards of a run, and the loop that works them off together with other processes."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from hf_relabel.config import RunConfig
from hf_relabel.errors import StageError
from hf_relabel.run.claims import Claims
from hf_relabel.run.progress import POLL_SECONDS, progress_bar, wait_for
from hf_relabel.run.ranks import Rank
from hf_relabel.run.store import ShardFolder, make_folder


@dataclass(frozen=True)
class Shard:
    """A run of consecutive images in the order of their ids."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def make_shards(images: int, size: int) -> list[Shard]:
    """Cut `images` images into shards of `size`; the last may be shorter."""
    return [Shard(i, start, min(start + size, images)) for i, start in enumerate(range(0, images, size))]


@dataclass
class ShardResult:
    """What a stage makes of a shard: one row an image, how many of them are errors, counts to report, features."""

    table: pa.Table
    errors: int = 0
    features: np.ndarray | None = None
    counters: dict[str, int] = field(default_factory=dict)


def run_shards(
    folder: ShardFolder,
    shards: list[Shard],
    process: Callable[[Shard, Callable[[int], None]], ShardResult],
    rank: Rank,
    config: RunConfig,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Do every shard that is not done, together with the other ranks; returns the stage's manifest.

    Args:
        folder: Where the shards lie and under which fingerprint.
        shards: All shards of the run, the same list in every rank.
        process: Makes a shard's table; is given the shard and a function to call with each number of images done.
        rank: This process.
        config: `overwrite` and `max_error_rate` are read.
        accepted: Called once no work of another configuration is in the way, before any shard is written.

    Raises:
        StageError: Work of another configuration is in the way; too many images are errors.
    """
    manifest = folder.manifest()
    if manifest is not None:
        return manifest
    make_folder(folder.folder)
    if not config.overwrite:
        folder.refuse_other_work(len(shards))
    accepted()
    images = sum(len(shard) for shard in shards)
    with progress_bar(images, folder.stage, "images", rank) as bar:
        errors = _work_off(folder, shards, process, rank, config, bar)
    _refuse_too_many_errors(folder, errors, images, config)
    if rank.is_main:
        manifest = folder.write_manifest(lambda index: len(shards[index]), len(shards))
        _refuse_too_many_errors(folder, manifest["counters"].get("errors", 0), images, config)
        return manifest
    return wait_for(folder.manifest)


def _work_off(
    folder: ShardFolder,
    shards: list[Shard],
    process: Callable[[Shard, Callable[[int], None]], ShardResult],
    rank: Rank,
    config: RunConfig,
    bar: tqdm,
) -> int:
    """Take shards, this rank's own first, until all are done by somebody. Returns this rank's count of errors."""
    claims = Claims(folder.folder)
    images = sum(len(shard) for shard in shards)
    errors = 0
    own = shards[rank.index :: rank.world]
    others = [shard for shard in reversed(shards) if shard.index % rank.world != rank.index]
    pending = own + others
    with _Writer(folder) as writer:
        while pending:
            left, worked = [], False
            for shard in pending:
                if folder.is_done(shard.index):
                    bar.update(len(shard))
                    continue
                with contextlib.ExitStack() as claim:
                    if not claim.enter_context(claims.hold(shard.index)):
                        left.append(shard)
                        continue
                    if folder.is_done(shard.index):  # by the rank whose claim ended a moment ago
                        bar.update(len(shard))
                        continue
                    result = process(shard, bar.update)
                    writer.write(shard, result, claim)
                worked = True
                errors += result.errors
                _refuse_too_many_errors(folder, errors, images, config)
            pending = left
            if pending and not worked:
                time.sleep(POLL_SECONDS)
    return errors


class _Writer:
    """Writes shards in a thread, so that the next one is computed meanwhile; at most one waits to be written.

    Leaving the block waits for the last one and raises what went wrong with it.
    """

    def __init__(self, folder: ShardFolder):
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._last: Future | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self._wait()

    def write(self, shard: Shard, result: ShardResult, claim: contextlib.ExitStack) -> None:
        """Write a shard's result; its claim is taken over, and given back when the shard is there."""
        self._wait()
        self._last = self._thread.submit(self._write, shard, result, claim.pop_all())

    def _wait(self) -> None:
        """Until the last shard is written; raises what went wrong with it."""
        if self._last is not None:
            self._last.result()

    def _write(self, shard: Shard, result: ShardResult, claim: contextlib.ExitStack) -> None:
        with claim:
            counters = {"images": len(shard), "errors": result.errors, **result.counters}
            self._folder.write(shard.index, result.table, counters, result.features)


def _refuse_too_many_errors(folder: ShardFolder, errors: int, images: int, config: RunConfig) -> None:
    if errors > config.max_error_rate * images:
        raise StageError(
            f"{folder.folder}: {errors} of {images} images are errors, more than run.max_error_rate "
            f"{config.max_error_rate:g} allows; see the column `error` of its shards, mend the images or raise the rate"
        )
