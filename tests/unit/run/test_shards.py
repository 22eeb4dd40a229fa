import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
import torch

from hf_relabel.config import RunConfig
from hf_relabel.errors import StageError
from hf_relabel.run import claims, store
from hf_relabel.run.claims import Claims
from hf_relabel.run.ranks import Rank, current_rank
from hf_relabel.run.shards import ShardResult, make_shards, run_shards
from hf_relabel.run.store import Fingerprint, ShardFolder


def rank(index: int = 0, world: int = 1) -> Rank:
    return Rank(index, world, world, torch.device("cpu"), 1)


def folder(path) -> ShardFolder:
    return ShardFolder(path, "numbers", Fingerprint({"of": "test"}))


def numbers(shard, tick) -> ShardResult:
    tick(len(shard))
    return ShardResult(pa.table({"n": list(range(shard.start, shard.stop))}), counters={"numbers": len(shard)})


def test_make_shards_covers_every_image_once():
    shards = make_shards(10, 4)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 4), (4, 8), (8, 10)]
    assert make_shards(0, 4) == []


def test_ranks_read_the_launcher_and_leave_no_process_group_behind(monkeypatch):
    for key, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "")
    here = current_rank(RunConfig())
    assert (here.index, here.world, here.local_world, here.is_main) == (3, 4, 2, False)
    assert here.threads == max(1, len(os.sched_getaffinity(0)) // 2)
    assert "RANK" not in os.environ
    assert "WORLD_SIZE" not in os.environ
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_number_of_ranks_does_not_change_what_is_written(tmp_path, world):
    shards = make_shards(10, 3)
    threads = [
        threading.Thread(target=run_shards, args=(folder(tmp_path), shards, numbers, rank(index, world), RunConfig()))
        for index in range(world)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    written = pa.concat_tables([folder(tmp_path).read(shard.index) for shard in shards])
    assert written["n"].to_pylist() == list(range(10))
    assert folder(tmp_path).manifest()["counters"] == {"errors": 0, "images": 10, "numbers": 10}
    assert not list(tmp_path.glob("*.claim"))


def test_done_shards_are_not_redone(tmp_path):
    shards = make_shards(10, 3)
    done = []

    def process(shard, tick):
        done.append(shard.index)
        if len(done) == 3:
            raise KeyboardInterrupt
        return numbers(shard, tick)

    with pytest.raises(KeyboardInterrupt):
        run_shards(folder(tmp_path), shards, process, rank(), RunConfig())
    run_shards(folder(tmp_path), shards, process, rank(), RunConfig())
    assert done == [0, 1, 2, 2, 3]
    run_shards(folder(tmp_path), shards, process, rank(), RunConfig())
    assert done == [0, 1, 2, 2, 3]


def test_a_shard_is_written_while_the_next_one_is_computed(tmp_path, monkeypatch):
    computing = threading.Event()
    overlapped = []
    write = ShardFolder.write

    def process(shard, tick):
        if shard.index == 1:
            computing.set()
        return numbers(shard, tick)

    def slow_write(self, shard, *arguments):
        if shard == 0:
            overlapped.append(computing.wait(10))
            overlapped.append((tmp_path / "shard-00000.claim").exists())
        write(self, shard, *arguments)

    monkeypatch.setattr(ShardFolder, "write", slow_write)
    run_shards(folder(tmp_path), make_shards(9, 3), process, rank(), RunConfig())
    assert overlapped == [True, True]  # and its claim is held until it is there
    assert folder(tmp_path).manifest()["shards"] == [3, 3, 3]


@pytest.mark.parametrize("failing", [0, 2])
def test_a_write_that_fails_stops_the_run_and_gives_the_claim_back(tmp_path, monkeypatch, failing):
    write = ShardFolder.write

    def full_disk(self, shard, *arguments):
        if shard == failing:
            raise OSError(28, "No space left on device")
        write(self, shard, *arguments)

    monkeypatch.setattr(ShardFolder, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_shards(folder(tmp_path), make_shards(9, 3), numbers, rank(), RunConfig())
    assert folder(tmp_path).manifest() is None
    assert not folder(tmp_path).is_done(failing)
    assert not list(tmp_path.glob("*.claim"))


def test_an_interrupted_run_ends_the_write_it_has_begun(tmp_path):
    def process(shard, tick):
        if shard.index == 1:
            raise KeyboardInterrupt
        return numbers(shard, tick)

    with pytest.raises(KeyboardInterrupt):
        run_shards(folder(tmp_path), make_shards(9, 3), process, rank(), RunConfig())
    assert folder(tmp_path).is_done(0)
    assert not list(tmp_path.glob("*.claim"))


def test_a_fast_rank_takes_the_shards_of_one_that_never_came(tmp_path):
    shards = make_shards(9, 3)
    run_shards(folder(tmp_path), shards, numbers, rank(0, 2), RunConfig())
    assert folder(tmp_path).manifest()["shards"] == [3, 3, 3]


def test_a_claim_keeps_others_away_while_its_owner_lives(tmp_path):
    shard = make_shards(1, 1)[0]
    with Claims(tmp_path).hold(shard.index) as mine, Claims(tmp_path).hold(shard.index) as other:
        assert mine
        assert not other
    with Claims(tmp_path).hold(shard.index) as again:
        assert again


def test_a_claim_that_changes_hands_meanwhile_is_left_to_its_new_owner(tmp_path, monkeypatch):
    """Between seeing a claim and looking at it, its owner gives it back and another rank takes it."""
    claim, others = tmp_path / "shard-00000.claim", json.dumps({"host": "elsewhere", "pid": 1})
    claim.write_text(others)
    look = Claims._is_void

    def look_too_late(self, path):
        monkeypatch.setattr(Claims, "_is_void", look)
        path.unlink()
        try:
            return look(self, path)
        finally:
            path.write_text(others)

    monkeypatch.setattr(Claims, "_is_void", look_too_late)
    with Claims(tmp_path).hold(0) as mine:
        assert not mine
    assert claim.read_text() == others


def test_a_claim_of_a_dead_process_is_void(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    shard = make_shards(1, 1)[0]
    (tmp_path / "shard-00000.claim").write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid}))
    with Claims(tmp_path).hold(shard.index) as mine:
        assert mine


def test_a_claim_from_another_machine_is_void_once_it_is_not_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.4)
    shard = make_shards(1, 1)[0]
    claim = tmp_path / "shard-00000.claim"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with Claims(tmp_path).hold(shard.index) as mine:
        assert not mine
    time.sleep(0.6)
    with Claims(tmp_path).hold(shard.index) as mine:
        assert mine
        time.sleep(0.6)  # longer than the lease: the owner has renewed it meanwhile
        with Claims(tmp_path).hold(shard.index) as other:
            assert not other


def test_a_half_written_claim_is_respected_for_a_while(tmp_path, monkeypatch):
    (tmp_path / "shard-00000.claim").write_text("")
    with Claims(tmp_path).hold(0) as mine:
        assert not mine
    monkeypatch.setattr(claims, "NAMING_SECONDS", 0.1)
    time.sleep(0.3)  # its owner died before it could write its name
    with Claims(tmp_path).hold(0) as mine:
        assert mine


def test_too_many_errors_stop_the_run_and_the_next_one_goes_on(tmp_path):
    shards = make_shards(10, 2)
    done = []

    def process(shard, tick):
        done.append(shard.index)
        return ShardResult(pa.table({"n": [0] * len(shard)}), errors=1)

    with pytest.raises(StageError, match=r"3 of 10 images are errors, more than run\.max_error_rate 0\.2 allows"):
        run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.2))
    assert done == [0, 1, 2]
    with pytest.raises(StageError, match="5 of 10"):  # also where each start alone would stay below the rate
        run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.4))
    assert run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.5))["counters"] == {
        "errors": 5, "images": 10,
    }  # fmt: skip
    assert done == [0, 1, 2, 3, 4]


def test_overwrite_redoes_other_work_only(tmp_path):
    shards = make_shards(4, 2)
    ShardFolder(tmp_path, "numbers", Fingerprint({"of": "old"})).write(0, pa.table({"n": [9, 9]}), {})
    folder(tmp_path).write(1, pa.table({"n": [2, 3]}), {"images": 2})
    with pytest.raises(StageError, match="another configuration"):
        run_shards(folder(tmp_path), shards, numbers, rank(), RunConfig())
    done = []

    def process(shard, tick):
        done.append(shard.index)
        return numbers(shard, tick)

    run_shards(folder(tmp_path), shards, process, rank(), RunConfig(overwrite=True))
    assert done == [0]
    assert folder(tmp_path).read(0)["n"].to_pylist() == [0, 1]


def test_many_may_make_one_folder_at_once(tmp_path):
    target = tmp_path / "run"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.make_folder(target), range(64)))
    assert list(target.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=r"run\.dir: cannot write in .*choose another --run\.dir"):
        store.make_folder(tmp_path / "file" / "run")
