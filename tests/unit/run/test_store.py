import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from hf_relabel.errors import StageError
from hf_relabel.run.store import (
    ABANDONED_SECONDS,
    Fingerprint,
    ShardFolder,
    atomic_open,
    differences,
    read_json,
    write_json,
)

TABLE = pa.table({"image_id": ["a", "b"]})


def folder(path, **inputs) -> ShardFolder:
    return ShardFolder(path, "proposals", Fingerprint(inputs))


def test_fingerprint_depends_on_values_not_on_order():
    assert Fingerprint({"a": 1, "b": {"c": 2, "d": 3}}).digest == Fingerprint({"b": {"d": 3, "c": 2}, "a": 1}).digest
    assert Fingerprint({"a": 1}).digest != Fingerprint({"a": 2}).digest


def test_differences_names_leaves():
    old = {"propose": {"tau": 0.4, "max_masks": 3}, "seed": 0}
    new = {"propose": {"tau": 0.5, "max_masks": 3}, "views": 2, "seed": 0}
    assert differences(old, new) == ["propose.tau: 0.4 -> 0.5", "views: null -> 2"]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"version": 1})
    with pytest.raises(RuntimeError, match="half way"), atomic_open(path, "w") as file:
        file.write("{")
        raise RuntimeError("half way")
    assert read_json(path) == {"version": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path):
    code = f"""
from pathlib import Path
from hf_relabel.run.store import atomic_open
with atomic_open(Path({str(tmp_path)!r}) / "shard.parquet") as file:
    file.write(b"half"); file.flush(); print("writing", flush=True); time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "shard.parquet").exists()


def test_shard_round_trip(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    assert not shards.is_done(0)
    features = np.arange(6, dtype=np.float16).reshape(2, 1, 3)
    shards.write(0, TABLE, {"errors": 1}, features)
    assert shards.is_done(0)
    assert shards.read(0).equals(TABLE)
    assert np.array_equal(shards.features(0), features)
    state = shards.state(0)
    assert (state.rows, state.counters, state.inputs) == (2, {"errors": 1}, {"tau": 0.4})


def test_another_fingerprint_is_not_done_and_is_refused_by_name(tmp_path):
    folder(tmp_path, propose={"tau": 0.4}).write(0, TABLE, {})
    other = folder(tmp_path, propose={"tau": 0.5})
    assert not other.is_done(0)
    with pytest.raises(StageError, match=r"propose\.tau: 0\.4 -> 0\.5.*--run\.overwrite true"):
        other.refuse_other_work(1)


def test_manifest_adds_up_counters_and_is_written_last(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    shards.write(0, TABLE, {"errors": 1})
    assert shards.manifest() is None
    with pytest.raises(StageError, match=r"shard-00001\.parquet: missing"):
        shards.write_manifest(lambda shard: 2, 2)
    assert shards.manifest() is None
    shards.write(1, TABLE, {"errors": 2, "kept": 5})
    assert shards.write_manifest(lambda shard: 2, 2)["counters"] == {"errors": 3, "kept": 5}
    assert shards.manifest()["shards"] == [2, 2]
    assert folder(tmp_path, tau=0.5).manifest() is None


def test_manifest_removes_shards_of_a_longer_run(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    for shard in range(3):
        shards.write(shard, TABLE, {}, np.zeros((1, 1, 1), np.float16))
    shards.write_manifest(lambda shard: 2, 2)
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [
        "shard-00000.npy", "shard-00000.parquet", "shard-00001.npy", "shard-00001.parquet",
    ]  # fmt: skip


def test_manifest_removes_what_killed_processes_left(tmp_path):
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
    shards.write_manifest(lambda shard: 2, 1)
    assert not any(path.exists() for path in of_the_dead)
    assert all(path.exists() for path in of_the_living)
    assert shards.path(0).exists()


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "shard-00000.parquet").write_bytes(b"not parquet")
    with pytest.raises(StageError, match=r"shard-00000\.parquet: damaged shard"):
        folder(tmp_path).is_done(0)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StageError, match=r"manifest\.json: not valid JSON"):
        folder(tmp_path).manifest()


def test_footer_is_json(tmp_path):
    shards = folder(tmp_path, tau=0.4)
    shards.write(0, TABLE, {"errors": 0})
    import pyarrow.parquet as pq

    footer = json.loads(pq.read_schema(shards.path(0)).metadata[b"hf_relabel"])
    assert footer["digest"] == shards.fingerprint.digest
