"""Shards of a run, and the loop that processes them together with other processes."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_relabel.config import RunConfig
from hf_relabel.errors import DamagedFileError, OutputError, StageError
from hf_relabel.run.claims import Claims
from hf_relabel.run.progress import Progress, Waiting, progress_bar, say
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import MANIFEST, ShardFolder, failures_of
from hf_relabel.run.store import make_folder, read_record

NAMED_FAILURES = 3
"""Unreadable images that an error message names."""

MANIFEST_CLAIM = "manifest"


@dataclass(frozen=True)
class Shard:
    """Consecutive images in the order of their ids."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def claim(self) -> str:
        """Name of the claim on this shard."""
        return f"shard-{self.index:05d}"


def shards_of_splits(splits: Iterable[int], size: int) -> list[Shard]:
    """Cut splits, given by their numbers of images, into shards of `size`; the last of each split may be smaller."""
    shards: list[Shard] = []
    first = 0
    for images in splits:
        for start in range(first, first + images, size):
            shards.append(Shard(len(shards), start, min(start + size, first + images)))
        first += images
    return shards


@dataclass
class ShardResult:
    """What a stage makes from a shard.

    Args:
        table: One row per image.
        errors: Number of rows that are errors.
        features: Pooled features, for a stage that has any.
        counters: Counts to report.
        machine: What computed it, for the manifest; it is not part of the fingerprint.
    """

    table: pa.Table
    errors: int = 0
    features: np.ndarray | None = None
    counters: dict[str, int] = field(default_factory=dict)
    machine: str = ""


class PartDone(Exception):
    """This process's part of a stage (`run.part`) is done, and other parts are not; no failure."""


Process = Callable[[Shard, Callable[[int], None]], ShardResult]
"""Makes a shard's result; it is given the shard, and a function to call with each number of images done."""


def existing_work(
    folder: ShardFolder, shards: list[Shard], config: RunConfig, later: Sequence[Path] = ()
) -> dict[str, Any] | None:
    """Return the stage's manifest if nothing is left to do, else clear the way for `run_shards`.

    With `run.overwrite`, work with another fingerprint loses its manifest, and the manifests of `later` stages, before
    any shard is touched; and work with this fingerprint is read completely, so that damaged shards are made again.

    Args:
        folder: Where the shards are, and their fingerprint.
        shards: All shards of the run.
        config: `overwrite` and `max_error_rate` are read.
        later: Manifests of the stages after this one, the last stage first.

    Raises:
        StageError: Work with another configuration is in the way; too many images are errors.
    """
    images = sum(len(shard) for shard in shards)
    if not config.overwrite:
        if (manifest := folder.manifest()) is not None:
            _refuse_too_many_errors(folder, shards, manifest["counters"].get("errors", 0), images, config)
            return manifest
        make_folder(folder.folder)
        folder.refuse_other_work(len(shards))
        return None
    make_folder(folder.folder)
    with Claims(folder.folder).wait(MANIFEST_CLAIM, f"{folder.folder / MANIFEST}"):
        return _prepare_overwrite(folder, shards, later)


def _prepare_overwrite(folder: ShardFolder, shards: list[Shard], later: Sequence[Path]) -> dict[str, Any] | None:
    """The manifest if it and all of its shards are good; else the manifests that are no longer valid are removed."""
    try:
        manifest = folder.manifest()
    except StageError as error:  # damaged
        say(f"hf-relabel: {error}")
        (folder.folder / MANIFEST).unlink(missing_ok=True)
        manifest = None
    if manifest is not None:
        damaged = folder.damaged(len(shards), lambda index: len(shards[index]))
        for damage in damaged:
            say(f"hf-relabel: {damage}")
        if not damaged:
            return manifest
        (folder.folder / MANIFEST).unlink(missing_ok=True)
        return None
    try:
        folder.refuse_other_work(len(shards))
        is_other = read_record(folder.folder / MANIFEST) is not None
    except StageError:
        is_other = True
    if is_other:
        for path in [*later, folder.folder / MANIFEST]:
            path.unlink(missing_ok=True)
    return None


def run_shards(
    folder: ShardFolder, shards: list[Shard], process: Process, rank: Rank, config: RunConfig
) -> dict[str, Any]:
    """Process every shard that is not done, together with other processes; returns the stage's manifest.

    Args:
        folder: Where the shards are, and their fingerprint; `existing_work` has looked at it.
        shards: All shards of the run, the same list in every process.
        process: Makes a shard's result.
        rank: This process.
        config: `max_error_rate` and `part` are read.

    Raises:
        StageError: Too many images are errors.
        OutputError: A file cannot be written.
        PartDone: Shards outside this process's part are not done yet.
    """
    make_folder(folder.folder)
    claims = Claims(folder.folder)
    part, parts = config.own_part
    own = shards[part::parts]
    images = sum(len(shard) for shard in shards)

    def finish() -> dict[str, Any]:
        errors = sum(state.counters.get("errors", 0) for state in map(folder.state, range(len(shards))) if state)
        _refuse_too_many_errors(folder, shards, errors, images, config)
        return folder.write_manifest(lambda index: len(shards[index]), len(shards))

    with progress_bar(sum(map(len, own)), folder.stage, "images", rank) as bar:
        while True:
            _process_all(folder, shards, own, process, rank, config, claims, bar)
            # Of the parts that end last, at least one sees that all shards are there, and writes the manifest.
            if parts > 1 and (left := sum(not folder.is_done(shard.index) for shard in shards)):
                raise PartDone(f"{folder.stage}: part {config.part} is done; {left} shards of other parts are left")
            try:
                return claims.once(MANIFEST_CLAIM, f"the manifest of {folder.folder}", folder.manifest, finish)
            except DamagedFileError as error:
                # Left by an overwrite that was killed, or damaged on disk: what cannot be trusted is made again.
                say(f"hf-relabel: {error}")
                if not folder.damaged(len(shards), lambda index: len(shards[index])):
                    raise


def _process_all(
    folder: ShardFolder,
    shards: list[Shard],
    part: list[Shard],
    process: Process,
    rank: Rank,
    config: RunConfig,
    claims: Claims,
    bar: Progress,
) -> None:
    """Take shards of a part, this rank's own first, until all of the part are done by somebody."""
    images = sum(len(shard) for shard in shards)
    errors = 0
    counted: set[int] = set()
    own = part[rank.index :: rank.world]
    others = [shard for at, shard in enumerate(part) if at % rank.world != rank.index]
    pending = own + others[::-1]
    waiting: Waiting | None = None
    with _Writer(folder) as writer:
        while pending:
            left, worked = [], False
            for shard in pending:
                if folder.is_done(shard.index):
                    bar.skip(len(shard) if shard.index not in counted else 0)
                    continue
                with contextlib.ExitStack() as claim:
                    if not claim.enter_context(claims.hold(shard.claim)):
                        left.append(shard)
                        continue
                    if folder.is_done(shard.index):  # by another process, which has just released its claim
                        bar.skip(len(shard))
                        continue
                    result = process(shard, bar.update)
                    counted.add(shard.index)
                    writer.write(shard, result, claim)
                worked = True
                errors += result.errors
                _refuse_too_many_errors(folder, shards, errors, images, config, result)
            pending = left
            if pending and not worked:
                waiting = waiting or Waiting(f"{len(pending)} shards of {folder.folder}")
                waiting.tick(claims.holder(pending[0].claim))


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
        """Write a shard's result; its claim is taken over, and released when the shard is there."""
        self._wait()
        self._last = self._thread.submit(self._write, shard, result, claim.pop_all())

    def _wait(self) -> None:
        """Wait until the last shard is written; raises what went wrong with it."""
        if self._last is not None:
            self._last.result()

    def _write(self, shard: Shard, result: ShardResult, claim: contextlib.ExitStack) -> None:
        with claim:
            counters = {"images": len(shard), "errors": result.errors, **result.counters}
            try:
                self._folder.write(shard.index, result.table, counters, result.features, result.machine)
            except OSError as error:  # of the removal of the old file
                raise OutputError(f"{self._folder.path(shard.index)}: cannot be written ({error.strerror})") from error


def _refuse_too_many_errors(
    folder: ShardFolder,
    shards: list[Shard],
    errors: int,
    images: int,
    config: RunConfig,
    current: ShardResult | None = None,
) -> None:
    """Raise StageError if there are more errors than `run.max_error_rate` allows, naming the first images."""
    if errors <= config.max_error_rate * images:
        return
    first = folder.failures(range(len(shards)), NAMED_FAILURES)
    if current is not None and len(first) < NAMED_FAILURES:
        first += [failure for failure in failures_of(current.table) if failure not in first]
    named = f": {'; '.join(first[:NAMED_FAILURES])}" if first else ""
    raise StageError(
        f"{folder.folder}: {errors} of {images} images are errors, more than run.max_error_rate "
        f"{config.max_error_rate:g} allows{named}; fix or remove the images, or raise the rate"
    )
