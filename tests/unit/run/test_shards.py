"""Shards: done once by whoever is there, resumed, overwritten, and stopped by errors; never mixed."""

import threading

import pyarrow as pa
import pytest
import torch

from hf_relabel.config import RunConfig
from hf_relabel.errors import OutputError, StageError
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.shards import PartDone, ShardResult, existing_work, shards_of_splits
from hf_relabel.run.shards import run_shards as work_off
from hf_relabel.run.store import Fingerprint, read_record, write_record


def rank(index: int = 0, world: int = 1) -> Rank:
    return Rank(index, world, world, torch.device("cpu"), 1)


def folder(path) -> ShardFolder:
    return ShardFolder(path, "numbers", Fingerprint({"of": "test"}))


def run_shards(stage, shards, process, rank, config, later=()):
    """Both steps of a stage."""
    manifest = existing_work(stage, shards, config, later)
    return work_off(stage, shards, process, rank, config) if manifest is None else manifest


def numbers(shard, tick) -> ShardResult:
    tick(len(shard))
    return ShardResult(pa.table({"n": list(range(shard.start, shard.stop))}), counters={"numbers": len(shard)})


def test_shards_cover_every_image_once():
    shards = shards_of_splits([10], 4)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 4), (4, 8), (8, 10)]
    assert shards_of_splits([0], 4) == []
    of_splits = [(shard.index, shard.start, shard.stop) for shard in shards_of_splits([5, 3], 4)]
    assert of_splits == [(0, 0, 4), (1, 4, 5), (2, 5, 8)], "a shard has images of one split"


def test_a_part_does_not_wait_for_others_and_the_last_one_writes_the_manifest(tmp_path):
    shards = shards_of_splits([10], 3)
    for part, left in (("1/3", 3), ("2/3", 2), ("1/3", 2)):
        with pytest.raises(PartDone, match=f"part {part} is done; {left} shards of other parts are left"):
            run_shards(folder(tmp_path), shards, numbers, rank(), RunConfig(part=part))
    assert folder(tmp_path).manifest() is None
    run_shards(folder(tmp_path), shards, numbers, rank(), RunConfig(part="0/3"))
    assert folder(tmp_path).manifest()["counters"] == {"errors": 0, "images": 10, "numbers": 10}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_number_of_ranks_does_not_change_what_is_written(tmp_path, world):
    shards = shards_of_splits([10], 3)
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
    shards = shards_of_splits([10], 3)
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
    run_shards(folder(tmp_path), shards_of_splits([9], 3), process, rank(), RunConfig())
    assert overlapped == [True, True]  # and its claim is held until it is there
    assert folder(tmp_path).manifest()["shards"] == [3, 3, 3]


@pytest.mark.parametrize("failing", [0, 2])
def test_a_write_that_fails_stops_the_run_and_gives_the_claim_back(tmp_path, monkeypatch, failing):
    write = ShardFolder.write

    def full_disk(self, shard, *arguments):
        if shard == failing:
            raise OutputError("shard: cannot be written (No space left on device)")
        write(self, shard, *arguments)

    monkeypatch.setattr(ShardFolder, "write", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        run_shards(folder(tmp_path), shards_of_splits([9], 3), numbers, rank(), RunConfig())
    assert folder(tmp_path).manifest() is None
    assert not folder(tmp_path).is_done(failing)
    assert not list(tmp_path.glob("*.claim"))


def test_an_interrupted_run_ends_the_write_it_has_begun(tmp_path):
    def process(shard, tick):
        if shard.index == 1:
            raise KeyboardInterrupt
        return numbers(shard, tick)

    with pytest.raises(KeyboardInterrupt):
        run_shards(folder(tmp_path), shards_of_splits([9], 3), process, rank(), RunConfig())
    assert folder(tmp_path).is_done(0)
    assert not list(tmp_path.glob("*.claim"))


def test_a_fast_rank_takes_the_shards_of_one_that_never_came(tmp_path):
    shards = shards_of_splits([9], 3)
    run_shards(folder(tmp_path), shards, numbers, rank(0, 2), RunConfig())
    assert folder(tmp_path).manifest()["shards"] == [3, 3, 3]


def test_too_many_errors_stop_the_run_every_time_and_name_the_first_images(tmp_path):
    shards = shards_of_splits([10], 2)
    done = []

    def process(shard, tick):
        done.append(shard.index)
        ids = [f"image-{number}" for number in range(shard.start, shard.stop)]
        return ShardResult(pa.table({"image_id": ids, "error": ["truncated", None]}), errors=1)

    stop = (
        r"3 of 10 images are errors, more than run\.max_error_rate 0\.2 allows: image-0: truncated; image-2: truncated"
    )
    with pytest.raises(StageError, match=stop):
        run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.2))
    assert done == [0, 1, 2]
    for _ in range(3):  # also where each start alone would stay below the rate, and when nothing is left to do
        with pytest.raises(StageError, match="5 of 10"):
            run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.4))
    assert folder(tmp_path).manifest() is None
    manifest = run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.5))
    assert manifest["counters"] == {"errors": 5, "images": 10}
    assert done == [0, 1, 2, 3, 4]
    with pytest.raises(StageError, match="5 of 10"):  # a stricter limit on a finished stage
        run_shards(folder(tmp_path), shards, process, rank(), RunConfig(max_error_rate=0.4))


def test_a_killed_overwrite_leaves_no_manifest_to_trust(tmp_path):
    """The overwrite stops after one shard; then neither the old nor the new settings take the mixture for finished."""
    shards = shards_of_splits([6], 2)
    run_shards(folder(tmp_path / "stage"), shards, numbers, rank(), RunConfig())
    later = tmp_path / "later.json"
    write_record(later, {})
    other = ShardFolder(tmp_path / "stage", "numbers", Fingerprint({"of": "other"}))

    def negative(shard, tick):
        if shard.index == 1:
            raise KeyboardInterrupt
        return ShardResult(pa.table({"n": [-1] * len(shard)}))

    with pytest.raises(KeyboardInterrupt):
        run_shards(other, shards, negative, rank(), RunConfig(overwrite=True), [later])
    assert not later.exists()
    assert read_record(tmp_path / "stage" / "manifest.json") is None
    with pytest.raises(StageError, match='of: "other" -> "test"'):
        run_shards(folder(tmp_path / "stage"), shards, numbers, rank(), RunConfig())
    run_shards(folder(tmp_path / "stage"), shards, numbers, rank(), RunConfig(overwrite=True))
    stage = folder(tmp_path / "stage")
    assert [n for shard in shards for n in stage.read(shard.index)["n"].to_pylist()] == list(range(6))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_truncated_or_missing_shard_is_made_again(tmp_path, overwrite):
    shards = shards_of_splits([6], 2)
    run_shards(folder(tmp_path), shards, numbers, rank(), RunConfig())
    folder(tmp_path).path(1).write_bytes(b"PAR1")
    folder(tmp_path).path(2).unlink()
    done = []

    def process(shard, tick):
        done.append(shard.index)
        return numbers(shard, tick)

    run_shards(folder(tmp_path), shards, process, rank(), RunConfig(overwrite=overwrite))
    assert sorted(done) == [1, 2]
    assert folder(tmp_path).manifest() is not None


def test_overwrite_makes_a_damaged_shard_again_and_keeps_what_is_good(tmp_path):
    shards = shards_of_splits([6], 2)
    run_shards(folder(tmp_path / "stage"), shards, numbers, rank(), RunConfig())
    later = tmp_path / "later.json"
    write_record(later, {})
    path = folder(tmp_path / "stage").path(1)
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)
    done = []

    def process(shard, tick):
        done.append(shard.index)
        return numbers(shard, tick)

    run_shards(folder(tmp_path / "stage"), shards, process, rank(), RunConfig(overwrite=True), [later])
    assert done == [1]
    assert later.exists()  # the same bytes come out, so what was made from them still holds
    assert folder(tmp_path / "stage").read(1)["n"].to_pylist() == [2, 3]


def test_overwrite_redoes_other_work_only(tmp_path):
    shards = shards_of_splits([4], 2)
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
