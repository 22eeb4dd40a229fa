"""What the stages share: the opened source, its shards, and the folder of each stage in the run's folder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_relabel.config import Config, as_dict
from hf_relabel.errors import StageError
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shards import Shard, make_shards
from hf_relabel.run.store import MANIFEST, Fingerprint, ShardFolder, read_json
from hf_relabel.sources.source import Source, open_source


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Job:
    """One run: its configuration, this process's rank, and what follows from them.

    Args:
        config: Every setting.
        rank: This process.
        accepted: Called by a stage once its settings and the existing work have passed all checks, before it writes.
    """

    config: Config
    rank: Rank
    accepted: Callable[[], None] = field(default=_nothing, compare=False)

    @cached_property
    def source(self) -> Source:
        """The dataset, opened on first use."""
        return open_source(self.config.source)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.run.dir)

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards of every stage: the source's images in the order of their ids."""
        return make_shards(len(self.source), self.config.run.shard_size)

    def stage_folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.folder / stage

    def finished(self, stage: str, command: str) -> tuple[ShardFolder, dict[str, Any]]:
        """An earlier stage's shards and manifest.

        Raises:
            StageError: The stage has not been completed, or not on this source and these shards.
        """
        folder = self.stage_folder(stage)
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            raise StageError(f"{folder}: the stage is not complete; run `hf-relabel {command}` with this configuration")
        shards = ShardFolder(folder, manifest["stage"], Fingerprint(manifest["inputs"]))
        if shards.fingerprint.digest != manifest["digest"]:
            raise StageError(
                f"{folder}: made with tables of version {manifest['schema_version']}; run `hf-relabel {command}` "
                "with --run.overwrite true"
            )
        if manifest["shards"] != [len(shard) for shard in self.shards]:
            raise StageError(
                f"{folder}: was made of {sum(manifest['shards'])} images, the source has {len(self.source)} in "
                f"shards of {self.config.run.shard_size}; run `hf-relabel {command}` again"
            )
        return shards, manifest

    def settings(self, *sections: str) -> dict[str, Any]:
        """Sections of the configuration as plain values, for a fingerprint."""
        return {section: as_dict(getattr(self.config, section)) for section in sections}
