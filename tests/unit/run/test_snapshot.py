"""The source as a run saw it: changes are noticed, and later stages need no images."""

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from full_disk import a_full_disk

from hf_relabel.config import Config, RunConfig, SourceConfig
from hf_relabel.errors import OutputError, SourceError, StageError
from hf_relabel.run import job as job_module
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank
from hf_relabel.run.snapshot import SNAPSHOT
from hf_relabel.run.store import read_record, write_record
from hf_relabel.sources import columns, image_folder, sorted_rows, stored_table
from hf_relabel.sources import rows as rows_of_tables
from hf_relabel.sources.source import open_source


@pytest.fixture
def images(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "images")


def open_job(images, run, overwrite: bool = False, **source) -> Job:
    config = Config(
        source=SourceConfig(**{"path": str(images), **source}), run=RunConfig(dir=str(run), overwrite=overwrite)
    )
    return Job(config, Rank(0, 1, 1, torch.device("cpu"), 1))


def begin(images, run) -> Job:
    """A run that has proposals, and records of later stages."""
    job = open_job(images, run)
    job.take_snapshot()
    for record in job_module.RECORDS:
        (run / record).mkdir()
    (run / "proposals" / "shard-00000.parquet").touch()
    (run / "proposals" / "manifest.json").write_text("{}")
    (run / "labeler" / "config.json").write_text("{}")
    return job


def test_a_snapshot_is_read_without_the_images(images, tmp_path):
    taken = open_job(images, tmp_path / "run").take_snapshot()
    shutil.rmtree(images)
    read = open_job(images, tmp_path / "run").snapshot
    assert (read.image_ids, read.class_names, read.split) == (taken.image_ids, taken.class_names, "train")
    assert np.array_equal(read.labels, taken.labels)
    assert read.fingerprint == taken.fingerprint
    assert read.settings["path"] == "images"  # not where it is on this machine


def test_a_later_stage_without_propose_says_what_to_run(images, tmp_path):
    with pytest.raises(StageError, match=r"source\.json: missing.*hf-relabel propose"):
        assert open_job(images, tmp_path).snapshot


def rename_class(images):
    (images / "circle").rename(images / "disc")


def replace_one(images):
    path = images / "circle" / "circle_0.png"
    path.write_bytes((images / "square" / "square_0.png").read_bytes())
    os.utime(path, ns=(1, 1))


def delete_one_and_add_one(images):
    (images / "circle" / "circle_0.png").rename(images / "circle" / "circle_9.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_class, r"classes removed: \['circle'\], added: \['disc'\]"),
        (replace_one, "1 images replaced or relabeled, such as 'circle/circle_0.png'"),
        (delete_one_and_add_one, "1 images removed, such as 'circle/circle_0.png'; 1 images added, such as 'circle"),
    ],
)  # fmt: skip
def test_a_changed_source_is_noticed_and_later_stages_keep_what_they_were_made_from(images, tmp_path, change, words):
    run = tmp_path / "run"
    before = begin(images, run).snapshot
    change(images)
    with pytest.raises(StageError, match=f"the source has changed since this run began.*{words}.*--run.overwrite"):
        open_job(images, run).take_snapshot()
    assert open_job(images, run).snapshot.class_names == before.class_names
    after = open_job(images, run, overwrite=True).take_snapshot()
    assert after.fingerprint != before.fingerprint
    assert not (run / "proposals" / "manifest.json").exists()  # removed before the new list is written
    assert not (run / "labeler" / "config.json").exists()
    assert open_job(images, run).snapshot.fingerprint == after.fingerprint


def test_before_there_is_work_a_change_is_no_matter(images, tmp_path):
    open_job(images, tmp_path / "run").take_snapshot()
    replace_one(images)
    open_job(images, tmp_path / "run").take_snapshot()
    assert len(list((tmp_path / "run").glob("source-*.parquet"))) == 1


def test_processes_that_start_together_list_the_images_once(images, tmp_path, monkeypatch):
    listed, started = [], threading.Barrier(4)
    real = job_module.open_source

    def slow(config, scratch):
        listed.append(1)
        source = real(config, scratch)
        threading.Event().wait(0.5)
        return source

    monkeypatch.setattr(job_module, "open_source", slow)
    results = []

    def work() -> None:
        started.wait()
        results.append(open_job(images, tmp_path / "run").take_snapshot().fingerprint)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 4
    assert len(set(results)) == 1
    assert listed == [1]


def test_a_list_on_disk_is_the_list_in_memory(images, tmp_path, monkeypatch):
    """Small runs and row groups, so that a few images need several; with two splits that share ids."""
    for module, name, rows in ((sorted_rows, "RUN_ROWS", 5), (sorted_rows, "BATCH_ROWS", 2)):
        monkeypatch.setattr(module, name, rows)
    for module in (stored_table, columns, image_folder, rows_of_tables):
        monkeypatch.setattr(module, "GROUP_ROWS", 3)
    shutil.copytree(images, tmp_path / "val")
    (tmp_path / "val" / "circle" / "circle_0.png").unlink()
    for number, split in enumerate(("train", ["train:" + str(images), "val:" + str(tmp_path / "val")])):
        job = open_job(images, tmp_path / f"run-{number}", split=split)
        taken, source = job.take_snapshot(), open_source(job.config.source)
        assert isinstance(source.image_ids, list)
        assert taken.fingerprint == source.fingerprint
        assert taken.image_ids == source.image_ids
        assert np.array_equal(taken.labels, source.labels)
        assert job.source.image_ids == source.image_ids
        assert [job.source.split_of(k) for k in range(len(source))] == [source.split_of(k) for k in range(len(source))]
        last = len(source) - 1
        assert job.source.load(last).image.tobytes() == source.load(last).image.tobytes()
        names = {path.name for path in job.folder.iterdir()}
        assert names == {SNAPSHOT, f"source-{taken.fingerprint[:12]}.parquet"}


@pytest.mark.parametrize("limit", [100, 1200])
def test_a_full_disk_is_one_line_and_leaves_nothing(images, tmp_path, monkeypatch, limit):
    """A process may not write more bytes to a file: neither a sorted run, nor, with the larger limit, the table."""
    monkeypatch.setattr(sorted_rows, "RUN_ROWS", 4)
    job = open_job(images, tmp_path / "run")
    (tmp_path / "run" / ".listing-killed").mkdir(parents=True)
    with a_full_disk(limit), pytest.raises(OutputError, match=r"cannot be written \(.*\); free disk space") as caught:
        job.take_snapshot()
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "run").iterdir()) == []
    assert job.take_snapshot().image_ids[0] == "circle/circle_0.png"


def test_work_of_an_earlier_version_is_kept_if_the_source_is_the_same(images, tmp_path):
    run = tmp_path / "run"
    fingerprint = begin(images, run).snapshot.fingerprint
    record = read_record(run / SNAPSHOT)
    del record["format"], record["layout"]
    write_record(run / SNAPSHOT, record | {"table_sha256": "0" * 64})
    with pytest.raises(StageError, match=r"source\.json: written by another version.*run `hf-relabel propose`"):
        assert open_job(images, run).snapshot
    old = (run / SNAPSHOT).read_text()
    assert open_job(images, run).take_snapshot().fingerprint == fingerprint
    assert open_job(images, run).snapshot.image_ids[0] == "circle/circle_0.png"
    assert (run / "proposals" / "manifest.json").exists()
    (run / SNAPSHOT).write_text(old)
    replace_one(images)
    with pytest.raises(StageError, match="the source has changed since this run began"):
        open_job(images, run).take_snapshot()


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from hf_relabel.config import Config, RunConfig, SourceConfig
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank
from hf_relabel.sources import columns, image_folder, sorted_rows, stored_table

sorted_rows.RUN_ROWS, sorted_rows.BATCH_ROWS = 4096, 256
for module in (columns, image_folder, stored_table):
    module.GROUP_ROWS = 1024
count = 0

def images(walk, place, prefix):
    walk.folders.add(prefix)
    for number in range(count):
        yield f"{prefix}a-name-of-some-length-{number * 7919 % count:012d}.JPEG", number, number

image_folder.Walk.images = images
for count in (5_000, 60_000):
    run = Path(sys.argv[1]) / str(count)
    config = Config(source=SourceConfig(path=sys.argv[2]), run=RunConfig(dir=str(run)))
    job = Job(config, Rank(0, 1, 1, torch.device("cpu"), 1))
    taken = job.take_snapshot()
    assert len(taken) == 3 * count
    assert sum(len(image_id) for image_id in job.source.image_ids) > 100 * count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_ids(images, tmp_path):
    """Listing and reading 180,000 ids instead of 15,000; held in lists they took 70 MiB more."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(images)]
    small, large = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert large - small < 30


@pytest.mark.parametrize("pattern", [SNAPSHOT, "source-*.parquet"])
def test_a_damaged_snapshot_is_noticed(images, tmp_path, pattern):
    open_job(images, tmp_path / "run").take_snapshot()
    (path,) = (tmp_path / "run").glob(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError, match=f"{path.name}: (damaged|not valid JSON)"):
        assert open_job(images, tmp_path / "run").snapshot.image_ids[0]
    path.unlink()
    if pattern == SNAPSHOT:
        open_job(images, tmp_path / "run").take_snapshot()
        assert open_job(images, tmp_path / "run").snapshot


def test_a_dataset_is_opened_again_without_reading_its_ids(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image, Value
    from PIL import Image as Picture

    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"]), "name": Value("string")})

    def save(shade: int) -> None:
        rows = {
            "image": [Picture.new("RGB", (8, 8), (k, shade, 0)) for k in range(4)],
            "label": [0, 1, 0, 1],
            "name": list("dcba"),
        }
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data")

    save(0)
    source = {"kind": "dataset", "id_column": "name"}
    open_job(tmp_path / "data", tmp_path / "run", **source).take_snapshot()
    job = open_job(tmp_path / "data", tmp_path / "run", **source)
    assert job.source.image_ids == list("abcd")
    assert [job.source.load(k).image.getpixel((0, 0))[0] for k in range(4)] == [3, 2, 1, 0]
    save(9)
    with pytest.raises(SourceError, match="the dataset has changed since its images were listed"):
        assert open_job(tmp_path / "data", tmp_path / "run", **source).source
