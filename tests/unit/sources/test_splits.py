"""Several splits as one source: their places, their order, unique ids, their classes."""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError, UsageError
from hf_relabel.run.snapshot import Snapshot
from hf_relabel.sources.source import Source, open_source


def save(path: Path, gray: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (gray, gray, gray)).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """`train/` and `val/`, with one file name in both."""
    for gray, name in enumerate(["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "val/dog/1.png"]):
        save(tmp_path / name, gray)
    save(tmp_path / "val/cat/9.png", 9)
    return tmp_path


def grays(source: Source) -> list[int]:
    return [source.load(index).image.getpixel((0, 0))[0] for index in range(len(source))]


def test_folders_below_one_root(root):
    source = open_source(SourceConfig(path=str(root), split=["train", "validation"]))
    assert source.split_sizes == {"train": 3, "validation": 2}
    # The file dog/1.png is in both, so all ids of the later split have its name; those of the first are as if alone.
    assert source.image_ids == ["cat/1.png", "cat/2.png", "dog/1.png", "validation/cat/9.png", "validation/dog/1.png"]
    assert source.image_ids[:3] == open_source(SourceConfig(path=str(root / "train"))).image_ids
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 0, 1, 0, 1]
    assert grays(source) == [0, 1, 2, 9, 3]
    assert [source.split_of(index) for index in (0, 2, 3, 4)] == ["train", "train", "validation", "validation"]


def test_the_path_may_be_the_folder_of_the_only_split_without_a_place(root):
    save(root / "train/train/1.png", 50)  # a class of this name, as in PASCAL VOC
    places = {"path": str(root / "train"), "split": ["train", f"validation:{root / 'val'}"]}
    source = open_source(SourceConfig(**places))
    assert source.split_sizes == {"train": 4, "validation": 2}
    assert source.class_names == ["cat", "dog", "train"]


def test_ids_that_are_unique_stay_as_they_are(root):
    (root / "val/dog/1.png").rename(root / "val/dog/8.png")
    source = open_source(SourceConfig(path=str(root), split=["train", "validation"]))
    assert source.image_ids[3:] == ["cat/9.png", "dog/8.png"]


@pytest.mark.parametrize("entry", ["test:val", "test:{root}/val"])
def test_a_place_for_a_split(root, entry):
    source = open_source(SourceConfig(path=str(root), split=["train", entry.format(root=root)]))
    assert source.split_sizes == {"train": 3, "test": 2}
    assert grays(source) == [0, 1, 2, 9, 3]


FEATURES = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})


def rows(*values: tuple[int, int]) -> Dataset:
    """Gray images with labels, as rows of a dataset."""
    pictures = [Image.new("RGB", (8, 6), (gray, gray, gray)) for gray, _ in values]
    return Dataset.from_dict({"image": pictures, "label": [label for _, label in values]}, features=FEATURES)


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_of_a_dataset(tmp_path, streaming):
    (tmp_path / "data").mkdir()
    rows((5, 0), (6, 1)).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    rows((7, 1), (8, 0)).to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    config = SourceConfig("dataset", str(tmp_path / "data"), split=["train", "validation"], streaming=streaming)
    source = open_source(config)
    assert source.image_ids == ["train/00000000", "train/00000001", "validation/00000000", "validation/00000001"]
    assert source.labels.tolist() == [0, 1, 1, 0]
    (tmp_path / "run").mkdir()
    Snapshot.of(source, config).save(tmp_path / "run")
    again = Snapshot.load(tmp_path / "run")
    assert again.is_current(config) == streaming
    for opened in (source, again.open(config)):
        for indices in (range(4), range(2), range(3, 4), range(1, 3)):
            read = [opened.load(item).image.getpixel((0, 0))[0] for item in opened.read(indices)]
            assert read == [5 + index for index in indices]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_that_has_another_name_in_its_dataset(tmp_path, streaming):
    for folder, split, gray in (("first", "train", 5), ("second", "validation", 7)):
        (tmp_path / folder).mkdir()
        rows((gray, 0), (gray + 10, 1)).to_parquet(tmp_path / folder / f"{split}-00000-of-00001.parquet")
    first, second = tmp_path / "first", tmp_path / "second"
    entry = f"test:{second}:validation"
    config = SourceConfig("dataset", str(first), split=["train", entry], streaming=streaming)
    source = open_source(config)
    assert source.split_sizes == {"train": 2, "test": 2}
    assert source.image_ids[2:] == ["test/00000000", "test/00000001"]
    assert [source.load(item).image.getpixel((0, 0))[0] for item in source.read(range(4))] == [5, 15, 7, 17]
    (tmp_path / "run").mkdir()
    Snapshot.of(source, config).save(tmp_path / "run")
    again = Snapshot.load(tmp_path / "run")
    assert again.settings["split"] == ["train", "test:second:validation"], "no path of this machine"
    assert again.is_current(config) == streaming
    opened = again.open(config)
    assert [opened.load(item).image.getpixel((0, 0))[0] for item in opened.read(range(4))] == [5, 15, 7, 17]
    alone = open_source(SourceConfig("dataset", str(second), split="test::validation", streaming=streaming))
    assert (alone.split, alone.image_ids) == ("test", ["test/00000000", "test/00000001"])
    with pytest.raises(SourceError, match=f"no split 'test'; it has .*; test:{second}:.* as test"):
        open_source(SourceConfig("dataset", str(first), split=["train", f"test:{second}"], streaming=streaming))


def test_a_split_of_a_folder_has_no_stored_name(root):
    with pytest.raises(SourceError, match=r"^:val: no such folder; for a folder, source\.split takes NAME or"):
        open_source(SourceConfig(path=str(root), split="test::val"))


def test_a_folder_whose_name_has_a_colon(root):
    (root / "val").rename(root / "taken:2026")
    source = open_source(SourceConfig(path=str(root / "train"), split=["train", f"test:{root}/taken:2026"]))
    assert source.split_sizes == {"train": 3, "test": 2}


def test_a_snapshot_has_the_splits(root, tmp_path):
    config = SourceConfig(path=str(root), split=["train", "validation"])
    source = open_source(config)
    folder = tmp_path / "run"
    folder.mkdir()
    Snapshot.of(source, config).save(folder)
    loaded = Snapshot.load(folder)
    assert loaded.split_sizes == source.split_sizes
    assert loaded.training_images == 3
    assert loaded.image_ids == source.image_ids
    assert np.array_equal(loaded.labels, source.labels)
    reopened = loaded.open(config)
    assert grays(reopened) == grays(source)
    assert reopened.image_ids == source.image_ids
    other = open_source(SourceConfig(path=str(root), split=["validation", "train"]))
    assert other.fingerprint != source.fingerprint


def test_refusals(root):
    with pytest.raises(SourceError, match=r"no folder for the split 'test' \(test or testing\)"):
        open_source(SourceConfig(path=str(root), split=["train", "test"]))
    save(root / "val/horse/1.png")
    with pytest.raises(SourceError, match=r"'horse'.*the split train"):
        open_source(SourceConfig(path=str(root), split=["train", "validation"]))
    for split in ([], ["train", "train:other"], "train[:10%]", ["train", "a b"]):
        with pytest.raises(UsageError, match=r"source\.split"):
            open_source(SourceConfig(path=str(root), split=split))
