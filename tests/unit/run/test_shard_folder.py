"""Shards on disk: what is written is read back, and what is damaged is noticed."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pytest

from hf_relabel.errors import DamagedFileError, StageError
from hf_relabel.run.shard_folder import ABANDONED_SECONDS, ShardFolder
from hf_relabel.run.store import Fingerprint

TABLE = pa.table({"image_id": ["a", "b"], "label": [0, 1]})
FEATURES = np.arange(6, dtype=np.float16).reshape(2, 1, 3)


def folder(path, **inputs) -> ShardFolder:
    return ShardFolder(path, "proposals", Fingerprint(inputs))


def two_rows(shard: int) -> int:
    return 2


@pytest.fixture
def stage(tmp_path):
    """A finished stage of two shards with features."""
    shards = folder(tmp_path, tau=0.4)
    for shard in range(2):
        shards.write(shard, TABLE, {"errors": shard, "kept": 5}, FEATURES + shard, machine="CPU AVX2")
    shards.write_manifest(two_rows, 2)
    return tmp_path


def test_a_table_of_another_version_is_one_line(stage):
    assert folder(stage, tau=0.4).read(0, ["image_id"]).column_names == ["image_id"]
    with pytest.raises(DamagedFileError, match=r"has no sha256, as it was written by another version.*propose"):
        folder(stage, tau=0.4).read(0, ["image_id", "sha256"])


def test_shard_round_trip(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    assert not shards.is_done(0)
    shards.write(0, TABLE, {"errors": 1}, FEATURES)
    assert shards.is_done(0)
    assert shards.read(0).equals(TABLE)
    assert shards.read(0, ["label"]).column_names == ["label"]
    assert np.array_equal(shards.features(0), FEATURES)
    state = shards.state(0)
    assert (state.rows, state.counters, state.inputs) == (2, {"errors": 1}, {"tau": 0.4})


def test_another_fingerprint_is_not_done_and_is_refused_by_name(tmp_path):
    folder(tmp_path, propose={"tau": 0.4}).write(0, TABLE, {})
    other = folder(tmp_path, propose={"tau": 0.5})
    assert not other.is_done(0)
    with pytest.raises(StageError, match=r"propose\.tau: 0\.4 -> 0\.5.*--run\.overwrite true"):
        other.refuse_other_work(1)


def test_the_manifest_adds_up_counters_and_machines_and_is_written_last(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    shards.write(0, TABLE, {"errors": 1}, machine="CPU AVX2")
    assert shards.manifest() is None
    with pytest.raises(DamagedFileError, match=r"shard-00001\.parquet: cannot be read"):
        shards.write_manifest(two_rows, 2)
    assert shards.manifest() is None
    shards.write(1, TABLE, {"errors": 2, "kept": 5}, machine="CPU AVX512")
    assert shards.write_manifest(two_rows, 2)["counters"] == {"errors": 3, "kept": 5}
    assert shards.manifest()["shards"] == [2, 2]
    assert shards.manifest()["machines"] == {"CPU AVX2": 1, "CPU AVX512": 1}
    assert folder(tmp_path, tau=0.5).manifest() is None


def test_the_manifest_removes_shards_of_a_longer_run(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    for shard in range(3):
        shards.write(shard, TABLE, {}, FEATURES)
    shards.write_manifest(two_rows, 2)
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [
        "shard-00000.npy", "shard-00000.parquet", "shard-00001.npy", "shard-00001.parquet",
    ]  # fmt: skip


def test_the_manifest_removes_what_killed_processes_left(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    shards.write(0, TABLE, {})
    names = [".shard-00000.parquet.0f.tmp", ".shard-00000.npy.0f.tmp", "shard-00000.claim"]
    of_the_dead = [tmp_path / name for name in names]
    of_the_living = [tmp_path / name.replace("0.", "1.") for name in names]
    for path in of_the_dead + of_the_living:
        path.touch()
    for path in of_the_dead:
        before = path.stat().st_mtime - ABANDONED_SECONDS - 1
        os.utime(path, (before, before))
    shards.write_manifest(two_rows, 1)
    assert not any(path.exists() for path in of_the_dead)
    assert all(path.exists() for path in of_the_living)
    assert shards.path(0).exists()


def flip(path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed(stage):
    """Wherever it is in a table or a feature file: an error that names the file and the command, never other rows."""
    for kind in ("parquet", "npy"):
        path = stage / f"shard-00001.{kind}"
        good = path.read_bytes()
        for place in range(0, len(good), 5):
            flip(path, place)
            with pytest.raises(DamagedFileError, match=rf"shard-00001\.{kind}.*hf-relabel propose --run\.overwrite"):
                read_all(stage)
            path.write_bytes(good)


def read_all(stage) -> None:
    shards = folder(stage, tau=0.4)
    for shard in range(2):
        shards.read(shard)
        shards.features(shard)


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_another_shards_file_is_noticed(stage, kind):
    shutil.copy(stage / f"shard-00000.{kind}", stage / f"shard-00001.{kind}")
    with pytest.raises(DamagedFileError, match=rf"shard-00001\.{kind}"):
        read_all(stage)


@pytest.mark.parametrize("kind", ["parquet", "npy"])
@pytest.mark.parametrize("size", [None, 0, 100])
def test_missing_and_truncated_files_are_named_and_made_again(stage, kind, size):
    path = stage / f"shard-00001.{kind}"
    path.unlink() if size is None else os.truncate(path, size)
    with pytest.raises(DamagedFileError, match=rf"shard-00001\.{kind}.*hf-relabel propose"):
        read_all(stage)
    assert not folder(stage, tau=0.4).is_done(1)
    assert folder(stage, tau=0.4).is_done(0)


def test_a_page_that_changed_before_the_manifest_was_written_is_noticed(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    shards.write(0, pa.table({"image_id": [f"image-{k:09d}" for k in range(500)]}), {})
    content = bytearray(shards.path(0).read_bytes())
    content[len(content) // 4] ^= 1
    shards.path(0).write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet"):
        folder(tmp_path, tau=0.4).write_manifest(lambda shard: 500, 1)


def test_an_old_footer_never_vouches_for_new_features(tmp_path, monkeypatch):
    """An overwrite that dies between the two files of a shard leaves no table, so the shard is not done."""
    folder(tmp_path, tau=0.4).write(0, TABLE, {}, FEATURES)
    monkeypatch.setattr("hf_relabel.run.shard_folder.pq.write_table", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder(tmp_path, tau=0.5).write(0, TABLE, {}, FEATURES + 1)
    assert not folder(tmp_path, tau=0.4).is_done(0)


def test_features_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(StageError, match="not finite"):
        folder(tmp_path).write(0, TABLE, {}, np.array([[[np.nan]]], np.float16))
