"""Splits that a release takes over from an earlier one, `build.base`: so a split can be added to a release."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hf_relabel.config.checks import regular_file
from hf_relabel.errors import ReleaseError, UsageError
from hf_relabel.hub.releases import open_release
from hf_relabel.release.layout import EXCLUDED, MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import verify
from hf_relabel.release.versions import next_version, version_key
from hf_relabel.release.writer import Batches
from hf_relabel.schema import Excluded
from hf_relabel.sources.columns import share_an_id
from hf_relabel.sources.splits import prefixed


@dataclass(frozen=True)
class Carried:
    """The splits of an earlier release that are taken over.

    Args:
        release: The earlier release.
        splits: Their names.
    """

    release: Release
    splits: list[str]

    def order(self, own: list[str]) -> list[str]:
        """All splits: those of the earlier release in their order, then the new ones."""
        return list(dict.fromkeys([*self.release.splits, *own]))

    def tables(self, split: str) -> Batches:
        """The rows of a split."""
        return self.release.only(split).batches("regions")

    def has_one_of(self, image_ids: Sequence[str]) -> bool:
        """Whether one of some sorted ids is that of an image in the splits that are taken over."""
        return any(share_an_id(image_ids, self._ids_of(split)) for split in self.splits)

    def _ids_of(self, split: str) -> Iterator[str]:
        for batch in self.release.only(split).batches("labels", ["image_id"]):
            yield from batch["image_id"].to_pylist()

    def excluded(self) -> list[Excluded]:
        """What the earlier release excluded from the splits that are taken over."""
        path = self.release.folder / EXCLUDED
        lines = regular_file(path).read_text(encoding="utf-8").split("\n") if path.exists() else []
        images = [Excluded.parse(line) for line in lines if line]
        if len(self.release.splits) == 1:
            images = [image._replace(split=self.release.split) for image in images]
        return [image for image in images if image.split in self.splits]

    def identity(self) -> dict[str, Any]:
        """What a fingerprint says about the earlier release; no path of this machine."""
        manifest = (self.release.folder / MANIFEST).read_bytes()
        return {
            "name": self.release.name,
            "version": self.release.version,
            "splits": self.splits,
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        }

    def provenance(self) -> dict[str, Any]:
        """What the manifest says about each split that is taken over: how it was made."""
        known = self.release.provenance.get("carried", {})
        mine = {key: value for key, value in self.release.provenance.items() if key != "carried"}
        made = {"version": self.release.version, "provenance": mine}
        return {split: known.get(split, made) for split in self.splits}


def open_base(name: str, version: str, class_names: list[str], own: list[str]) -> Carried:
    """Open the release whose other splits are taken over.

    Args:
        name: A release's folder, or user/name@revision on the Hub.
        version: Version of the new release.
        class_names: Classes of the new release.
        own: Splits that the run has itself.

    Raises:
        UsageError: The new version is not a later one, the classes differ, or there is no other split.
        ReleaseError: There is no such release, or it is damaged.
    """
    release = open_release(name)
    if version_key(version) <= version_key(release.version):
        raise UsageError(
            f"build.version: {version} is not later than {release.version}, the version of {name}; use "
            f"--build.version {next_version([release.version])}"
        )
    if release.class_names != class_names:
        raise UsageError(
            f"build.base: {name} has {len(release.class_names)} classes, not the {len(class_names)} of this run; "
            "label the new split with the labeler of that release (--labeler)"
        )
    splits = [split for split in release.splits if split not in own]
    if not splits:
        raise UsageError(f"build.base: {name} has no split other than {', '.join(own)}; leave build.base out")
    verify(release)
    return Carried(release, splits)


def refuse_same_ids(carried: Carried, split: str) -> None:
    """Refuse to put the split's name before the ids of the first split, which keep the form that they have alone.

    Raises:
        ReleaseError: It is the first split.
    """
    if split == carried.release.splits[0]:
        raise ReleaseError(
            f"build.base: image ids of the split {split!r} are also in its other splits "
            f"({', '.join(carried.splits)}); relabel all splits in one run (source.split)"
        )


def with_prefix(table: pa.Table, split: str) -> pa.Table:
    """The rows of a split with its name before the ids of images and regions."""
    rows = table.to_pylist()
    for row in rows:
        row["image_id"] = prefixed(split, row["image_id"])
        for region in row["regions"]:
            region["region_id"] = prefixed(split, region["region_id"])
    return pa.Table.from_pylist(rows, schema=table.schema)
