"""What the stages share: the source, its shards, and the folder of each stage in the run's folder."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_relabel.config import Config, as_dict
from hf_relabel.errors import StageError
from hf_relabel.run.claims import Claims
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import MANIFEST, ShardFolder
from hf_relabel.run.shards import Process, Shard, existing_work, run_shards, shards_of_splits
from hf_relabel.run.snapshot import SNAPSHOT, OldSnapshotError, Snapshot, describe_changes
from hf_relabel.run.store import Fingerprint, clock, make_folder, read_record
from hf_relabel.sources.source import Source, open_source

RECORDS = {"proposals": MANIFEST, "scores": MANIFEST, "labeler": "config.json", "regions": MANIFEST}
"""The folders of the stages in their order, and the file of each that says the stage is complete."""


LISTING = ".listing-"
"""What the names of folders for lists of images start with."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Job:
    """One run: its configuration, this process's rank, and what follows from them.

    Args:
        config: Every setting.
        rank: This process.
        labeler: Folder of a finished labeler from elsewhere; None: this run trains its own.
        class_names: Classes of that labeler, which the images' labels are matched with.
        only_training: Whether `shards` has only the images that a labeler is trained on.
        accepted: Called by a stage once its settings and the existing work have passed all checks, before it writes.
    """

    config: Config
    rank: Rank
    accepted: Callable[[], None] = field(default=_nothing, compare=False)
    labeler: Path | None = None
    class_names: list[str] | None = None
    only_training: bool = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.run.dir)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The source's ids, labels and class names, as `propose` saw them; no image is looked at.

        Raises:
            StageError: `propose` has not been run, or the file is damaged.
        """
        return self._loaded()

    @cached_property
    def source(self) -> Source:
        """The images, for a stage that needs pixels."""
        return self.snapshot.open(self.config.source)

    def take_snapshot(self) -> Snapshot:
        """Compare the source with `source.json`, or write that file, once for all processes that start together.

        One process lists the source; those that wait for it read what it wrote.

        Raises:
            StageError: The source has changed since work of this run was made from it.
        """
        make_folder(self.folder)
        path, started = self.folder / SNAPSHOT, clock(self.folder)

        def checked_meanwhile() -> Snapshot | None:
            is_new = path.exists() and path.stat().st_mtime > started
            return Snapshot.load(self.folder) if is_new else None

        snapshot = Claims(self.folder).once("source", f"the list of images, {path}", checked_meanwhile, self._list)
        self.__dict__["snapshot"] = snapshot
        return snapshot

    def _list(self) -> Snapshot:
        if (listed := self._listed_before()) is not None:
            return listed
        with self._scratch() as scratch:
            source = open_source(self.config.source, Path(scratch))
            if self.class_names is not None:
                source = source.in_classes(self.class_names, str(self.config.labeler))
            self._keep(Snapshot.of(source, self.config.source))
        return self._loaded()

    def _scratch(self) -> tempfile.TemporaryDirectory:
        """A folder for a list of images that does not fit in memory; those of processes that were killed are removed.

        Only one process lists the images at a time.
        """
        for left in self.folder.glob(f"{LISTING}*"):
            shutil.rmtree(left, ignore_errors=True)
        return tempfile.TemporaryDirectory(prefix=LISTING, dir=self.folder, ignore_cleanup_errors=True)

    def _keep(self, new: Snapshot) -> None:
        """Write a new snapshot, or note that the source is still the old one's."""
        old: Snapshot | None = None
        before, changes = None, "it was listed by another version of hf_relabel"
        try:
            old = Snapshot.load(self.folder)
            before = old.fingerprint if old is not None else None
        except OldSnapshotError as error:
            before = error.fingerprint
        except StageError:
            if not self.config.run.overwrite and self._has_proposals():
                raise
        if before not in (None, new.fingerprint) and self._has_proposals():
            if not self.config.run.overwrite:
                changes = describe_changes(old, new) if old is not None else changes
                raise StageError(
                    f"{self.folder / SNAPSHOT}: the source has changed since this run began ({changes}); choose "
                    f"another --run.dir (to label other images with this run's labeler, add --labeler {self.folder}), "
                    "or redo it with --run.overwrite true"
                )
            self.invalidate("proposals")
        if old is not None and old.fingerprint == new.fingerprint and old.settings == new.settings:
            os.utime(self.folder / SNAPSHOT)  # says when the source was compared last
        else:
            new.save(self.folder)

    def _loaded(self) -> Snapshot:
        snapshot = Snapshot.load(self.folder)
        if snapshot is None:
            raise StageError(
                f"{self.folder / SNAPSHOT}: missing, the source has not been read; run `hf-relabel propose` with this "
                "configuration"
            )
        return snapshot

    def _listed_before(self) -> Snapshot | None:
        """The snapshot of a streamed dataset that has not changed; listing an archive reads all of it."""
        with contextlib.suppress(StageError):  # a damaged snapshot is made again
            old = Snapshot.load(self.folder)
            is_same = old is not None and self.class_names in (None, old.class_names)
            if old is not None and is_same and old.is_current(self.config.source):
                os.utime(self.folder / SNAPSHOT)
                return old
        return None

    def _has_proposals(self) -> bool:
        return any(self.stage_folder("proposals").glob("shard-*.parquet"))

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards of a stage: the images of one split after another, each in the order of their ids.

        A shard has images of one split, and those of the first split, which trains, come first.
        """
        shards = shards_of_splits(self.snapshot.split_sizes.values(), self.config.run.shard_size)
        return [shard for shard in shards if not self.only_training or self.trains(shard)]

    def shards_of(self, split: str) -> list[Shard]:
        """The shards of one split."""
        start = 0
        for name, size in self.snapshot.split_sizes.items():
            if name == split:
                return [shard for shard in self.shards if start <= shard.start < start + size]
            start += size
        raise StageError(f"{self.folder / SNAPSHOT}: has no split {split!r}")

    def trains(self, shard: Shard) -> bool:
        """Whether a labeler is trained on the images of a shard."""
        return shard.stop <= self.snapshot.training_images

    @cached_property
    def training(self) -> "Job":
        """The same job with only the images that a labeler is trained on, those of the first split."""
        job = dataclasses.replace(self, only_training=True)
        job.__dict__["snapshot"] = self.snapshot
        return job

    def stage_folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.folder / stage

    @property
    def labeler_folder(self) -> Path:
        """Where the labeler is."""
        return self.labeler or self.stage_folder("labeler")

    def later_records(self, stage: str) -> list[Path]:
        """The records of the stages after one, the last stage first: they are no longer valid once it is redone."""
        later = list(RECORDS)[list(RECORDS).index(stage) + 1 :] if stage in RECORDS else []
        return [self.stage_folder(name) / RECORDS[name] for name in reversed(later)]

    def invalidate(self, stage: str) -> None:
        """Remove the record of a stage, after those of all later stages."""
        for path in [*self.later_records(stage), self.stage_folder(stage) / RECORDS[stage]]:
            path.unlink(missing_ok=True)

    def existing(self, folder: ShardFolder) -> dict[str, Any] | None:
        """A stage's manifest if nothing is left to do; else its folder is ready for `run_shards`."""
        manifest = existing_work(folder, self.shards, self.config.run, self.later_records(folder.stage))
        if manifest is None:
            self.accepted()
        return manifest

    def run_shards(self, folder: ShardFolder, process: Process) -> dict[str, Any]:
        """Process a stage's shards together with other processes; returns its manifest."""
        return run_shards(folder, self.shards, process, self.rank, self.config.run)

    def finished(self, stage: str, command: str, **upstream: str) -> tuple[ShardFolder, dict[str, Any]]:
        """An earlier stage's shards and manifest.

        Args:
            stage: Its folder.
            command: The command that completes it.
            **upstream: Inputs that it must have been made from, such as the digest of the proposals.

        Raises:
            StageError: The stage has not been completed, or not from this source, these shards and these inputs.
        """
        folder = self.stage_folder(stage)
        manifest = read_record(folder / MANIFEST)
        again = f"run `hf-relabel {command}` with this configuration"
        if manifest is None:
            raise StageError(f"{folder}: the stage is not complete; {again}")
        shards = ShardFolder(folder, manifest["stage"], Fingerprint(manifest["inputs"]))
        if shards.fingerprint.digest != manifest["digest"]:
            raise StageError(
                f"{folder}: made with tables of version {manifest['schema_version']}; {again} and --run.overwrite true"
            )
        if stage == "proposals":
            upstream = {"source": self.snapshot.fingerprint, **upstream}
        for name, digest in upstream.items():
            if manifest["inputs"].get(name) != digest:
                raise StageError(f"{folder}: was made from a different {name}; {again} and --run.overwrite true")
        expected = [len(shard) for shard in self.shards]
        made = manifest["shards"][: len(expected)] if self.only_training else manifest["shards"]
        if made != expected:
            raise StageError(
                f"{folder}: was made from {sum(manifest['shards'])} images in {len(manifest['shards'])} shards, the "
                f"source has {len(self.snapshot)} in shards of {self.config.run.shard_size}; {again}"
            )
        if shards.manifest() is None:
            raise StageError(f"{folder}: a table is missing or truncated; {again}")
        return shards, manifest

    def once(self, folder: Path, what: str, find: Callable[[], Any], make: Callable[[], Any]) -> Any:
        """Return what is in a folder, or make it in this process; while another process makes it, wait."""
        make_folder(folder)
        return Claims(folder).once(folder.name, what, find, make)

    def settings(self, *sections: str) -> dict[str, Any]:
        """Sections of the configuration as plain values, for a fingerprint."""
        return {section: as_dict(getattr(self.config, section)) for section in sections}
