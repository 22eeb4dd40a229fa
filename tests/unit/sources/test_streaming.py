"""Streamed Parquet and WebDataset files: the ids, labels and pixels of the same dataset without streaming."""

import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from image_tables import png, table
from PIL import Image

from hf_relabel.config import Config, RunConfig, SourceConfig
from hf_relabel.errors import ImageReadError, SourceError, UsageError
from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank
from hf_relabel.sources.data_files import FileOpener
from hf_relabel.sources.loader import BatchLoader
from hf_relabel.sources.parquet_files import ParquetFiles
from hf_relabel.sources.source import Source, open_source

COUNT = 30
PER_FILE = 10
ORDER = np.random.default_rng(0).permutation(COUNT)
LABELS = [int(number) % 3 for number in ORDER]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_parquet(folder: Path, paths: bool = True, rows_per_group: int = 4) -> Path:
    """Three files of 10 rows in groups of 4; the stored paths are in another order than the rows."""
    names = [f"{number:02d}.png" for number in ORDER] if paths else None
    data = table(LABELS, names, names=["a", "b", "c"], key=[f"k{number:02d}" for number in ORDER])
    folder.mkdir()
    for number in range(COUNT // PER_FILE):
        part = data.select(range(number * PER_FILE, (number + 1) * PER_FILE))
        part.to_parquet(folder / f"train-{number}.parquet", batch_size=rows_per_group)
    return folder


def write_archives(folder: Path) -> Path:
    """Three archives of 10 samples with png, cls and json; sample 4 has no image."""
    folder.mkdir()
    for number in range(COUNT // PER_FILE):
        with tarfile.open(folder / f"train-{number}.tar", "w") as archive:
            for row in range(number * PER_FILE, (number + 1) * PER_FILE):
                files = {"png": png((row, 0, 0)), "cls": str(LABELS[row]).encode()}
                files["json"] = json.dumps({"label": "abc"[LABELS[row]], "more": row}).encode()
                if row == 14:
                    del files["png"]
                for suffix, content in files.items():
                    member = tarfile.TarInfo(f"x/{ORDER[row]:02d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def both(folder: Path, **settings) -> tuple[Source, Source]:
    """A dataset without and with streaming."""
    settings = {"kind": "dataset", "path": str(folder), **settings}
    return open_source(SourceConfig(**settings)), open_source(SourceConfig(**settings, streaming=True))


def values(image: Image.Image) -> torch.Tensor:
    """The pixels of an image as the input of a model, here unchanged."""
    return torch.from_numpy(np.array(image))


def pixels(source: Source, indices: range, workers: int = 0) -> dict[int, object]:
    """The decoded images of a range, or why they cannot be read, as the first stage reads them."""
    loader = BatchLoader(source, values, 8, batch_size=4, workers=workers)
    found: dict[int, object] = {}
    for batch in loader.read(indices):
        read = iter(batch.pixels if batch.pixels is not None else [])
        found |= {image.index: image.error or next(read).tolist() for image in batch.images}
    assert list(found) == list(indices)
    return found


def check_equal(whole: Source, stream: Source) -> None:
    assert stream.image_ids == whole.image_ids
    assert stream.class_names == whole.class_names
    assert stream.labels.tolist() == whole.labels.tolist()
    assert stream.split == whole.split
    expected = pixels(whole, range(len(whole)))
    assert pixels(stream, range(len(stream))) == expected
    middle = range(len(stream) // 3, 2 * len(stream) // 3)
    assert pixels(stream, middle) == {place: expected[place] for place in middle}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"id_column": "key"},
        {"id_from": "row"},
        {"limit": 11},
        {"only_classes": ["a", "c"]},
        {"label_column": "key", "class_names": None},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_parquet(tmp_path, settings):
    check_equal(*both(write_parquet(tmp_path / "data"), **settings))


def test_parquet_without_paths_and_in_one_file(tmp_path):
    folder = write_parquet(tmp_path / "data", paths=False)
    whole, stream = both(folder)
    assert stream.image_ids[3] == "train/00000003"
    check_equal(whole, stream)
    check_equal(*both(folder / "train-1.parquet"))


def test_parquet_with_bytes_instead_of_images(tmp_path):
    data = datasets.Dataset.from_dict({"picture": [png((row, 0, 0)) for row in range(5)], "label": list("abcab")})
    data.to_parquet(tmp_path / "data" / "train.parquet")
    check_equal(*both(tmp_path / "data", image_column="picture"))


@pytest.mark.parametrize("label", [{"label_column": "json.label"}, {"label_column": "cls", "class_names": "names.txt"}])
def test_archives(tmp_path, label):
    if "class_names" in label:
        (tmp_path / "names.txt").write_text("a\nb\nc\n")
        label = label | {"class_names": str(tmp_path / "names.txt")}
    whole, stream = both(write_archives(tmp_path / "data"), image_column="png", **label)
    assert len(stream) == COUNT
    check_equal(whole, stream)
    reasons = [value for value in pixels(stream, range(COUNT)).values() if isinstance(value, str)]
    assert reasons == ["cannot be opened (the row has no image)"]


def test_archives_with_the_key_as_id(tmp_path):
    settings = {"image_column": "png", "label_column": "json.label", "id_column": "__key__"}
    whole, stream = both(write_archives(tmp_path / "data"), **settings)
    assert stream.image_ids[0] == "x/00"
    check_equal(whole, stream)


@pytest.mark.slow
def test_worker_processes_get_what_one_process_reads(tmp_path):
    whole, stream = both(write_parquet(tmp_path / "data"))
    assert pixels(stream, range(COUNT), workers=2) == pixels(whole, range(COUNT))


def test_one_image_at_a_time_and_in_another_process(tmp_path):
    settings = {"image_column": "png", "label_column": "json.label", "id_column": "__key__"}
    whole, stream = both(write_archives(tmp_path / "data"), **settings)
    copy = pickle.loads(pickle.dumps(stream))
    for place in (29, 0, 12):
        assert copy.load(place).image.tobytes() == whole.load(place).image.tobytes()
    with pytest.raises(ImageReadError, match="the row has no image"):
        copy.load(copy.image_ids.index(f"x/{ORDER[14]:02d}"))


def test_only_the_parts_with_the_images_are_read(tmp_path, monkeypatch):
    opened, groups = [], []
    open_, read = FileOpener.open, ParquetFiles._read_group
    monkeypatch.setattr(
        FileOpener, "open", lambda self, number, *ahead: opened.append(number) or open_(self, number, *ahead)
    )
    monkeypatch.setattr(
        ParquetFiles,
        "_read_group",
        lambda self, file, group, rows: groups.append(group) or read(self, file, group, rows),
    )
    stream = both(write_parquet(tmp_path / "data"), id_from="row")[1]
    assert (opened, groups) == ([0, 1, 2], [])
    opened.clear()
    assert len(pixels(stream, range(12, 22))) == 10
    assert (opened, groups) == ([1, 2], [0, 1, 2, 0])


def test_images_in_the_order_of_their_ids_are_not_collected(tmp_path):
    """Memory is bounded: the first image comes before the second row group is read."""
    stream = both(write_parquet(tmp_path / "data"), id_from="row")[1]
    parts = []
    read = stream.images.files.read

    def watch(places):
        for content in read(places):
            parts.append(len(parts))
            yield content

    object.__setattr__(stream.images.files, "read", watch)
    items = iter(stream.read(range(COUNT)))
    for number in range(5):
        assert next(items)[0] == number
        assert len(parts) == number + 1


def test_ids_far_from_the_stored_order_are_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("hf_relabel.sources.streaming.TYPICAL_SHARD", 3)
    folder = write_parquet(tmp_path / "data", rows_per_group=10)
    with caplog.at_level(logging.WARNING):
        both(folder, id_from="row")
        assert "another order" not in caplog.text
        monkeypatch.setattr("hf_relabel.sources.streaming.MANY_READS", 1.5)
        both(folder)
    assert "stored in another order than that of their ids" in caplog.text
    assert "--source.id_from row" in caplog.text


def job_of(folder: Path, run: Path, **settings) -> Job:
    source = SourceConfig(kind="dataset", path=str(folder), streaming=True, **settings)
    return Job(Config(source=source, run=RunConfig(dir=str(run))), Rank(0, 1, 1, torch.device("cpu"), 1))


def test_a_run_that_is_started_again_does_not_list_again(tmp_path, monkeypatch):
    folder = write_parquet(tmp_path / "data")
    first = job_of(folder, tmp_path / "run").take_snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(ParquetFiles, "rows", lambda self: pytest.fail("the files were listed again"))
        again = job_of(folder, tmp_path / "run")
        assert again.take_snapshot().fingerprint == first.fingerprint
        assert again.source.load(3).image.getpixel((0, 0))[0] == ORDER.tolist().index(3)
    changed = job_of(folder, tmp_path / "run", limit=5).take_snapshot()
    assert len(changed) == 5
    (folder / "train-2.parquet").unlink()
    assert len(job_of(folder, tmp_path / "run").take_snapshot()) == 20
    (folder / "train-1.parquet").unlink()
    with pytest.raises(SourceError, match="has changed since its images were listed"):
        assert job_of(folder, tmp_path / "run").source


def refusal(folder: Path, **settings) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(SourceConfig(kind="dataset", path=str(folder), streaming=True, **settings))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_cannot_be_streamed(tmp_path):
    table(["a"]).save_to_disk(tmp_path / "saved")
    assert "was saved by save_to_disk" in refusal(tmp_path / "saved")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("image,label\nx.png,a\n")
    assert "streaming needs Parquet or WebDataset files" in refusal(tmp_path / "csv")
    with pytest.raises(UsageError, match=r"source\.streaming: must be false for source\.kind folder"):
        SourceConfig(path=str(tmp_path), streaming=True)
    folder = write_parquet(tmp_path / "data")
    assert "no split 'val'; it has train" in refusal(folder, split="val")
    assert "no column 'labels' (nearest: 'label')" in refusal(folder, label_column="labels")
    datasets.Dataset.from_dict({"image": ["x.png"], "label": ["a"]}).to_parquet(tmp_path / "paths.parquet")
    assert "has paths instead of images" in refusal(tmp_path / "paths.parquet")


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_damaged_file_stops_the_run_and_is_named(tmp_path, kind):
    folder = (write_parquet if kind == "parquet" else write_archives)(tmp_path / "data")
    settings = {} if kind == "parquet" else {"image_column": "png", "label_column": "json.label"}
    stream = open_source(SourceConfig(kind="dataset", path=str(folder), streaming=True, **settings))
    damaged = folder / f"train-1.{kind}"
    damaged.write_bytes(damaged.read_bytes()[:900])
    with pytest.raises(SourceError, match=rf"train-1\.{kind}: cannot be read"):
        list(stream.read(range(COUNT)))
    if kind == "parquet":
        assert "train-1.parquet" in refusal(folder)
