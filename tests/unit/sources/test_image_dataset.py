"""Datasets as sources: ids, labels, pixels, and one-line errors."""

import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from image_tables import png, table
from torch.utils.data import DataLoader

from hf_relabel.config import SourceConfig
from hf_relabel.errors import ImageReadError, SourceError
from hf_relabel.sources import image_dataset
from hf_relabel.sources.image_dataset import DatasetImages
from hf_relabel.sources.source import Source, open_source, source_of_dataset


def source_of(data: datasets.Dataset, **settings) -> Source:
    return source_of_dataset(data, SourceConfig(kind="dataset", path="photos", **settings))


def refusal(data: object, **settings) -> str:
    """The one-line error raised for a dataset."""
    with pytest.raises(SourceError) as caught:
        source_of(data, **settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


class TestDatasetColumns:
    def test_class_labels_and_row_ids(self):
        source = source_of(table([1, 0, 1], names=["cat", "dog"]), split="test")
        assert source.class_names == ["cat", "dog"]
        assert source.labels.dtype == np.int32
        assert source.labels.tolist() == [1, 0, 1]
        assert source.image_ids == ["test/00000000", "test/00000001", "test/00000002"]
        assert source.load(2).image.getpixel((0, 0)) == (2, 0, 0)

    def test_stored_paths_sort_and_pixels_follow(self):
        source = source_of(table([1, 0, 1], ["b/x.png", "a/x.png", "a/./w.png"], names=["cat", "dog"]))
        assert source.image_ids == ["a/w.png", "a/x.png", "b/x.png"]
        assert source.labels.tolist() == [1, 0, 1]
        assert [source.load(place).image.getpixel((0, 0))[0] for place in range(3)] == [2, 1, 0]

    def test_absolute_paths_are_cut_to_their_common_folder(self):
        source = source_of(table(["a", "b"], ["/data/set/cat/1.png", "/data/set/cow/1.png"]))
        assert source.image_ids == ["cat/1.png", "cow/1.png"]

    def test_paths_in_archives(self):
        source = source_of(table(["a", "b"], ["zip://cat/1.png::/data/a.zip", "zip://cow\\1.png::/data/a.zip"]))
        assert source.image_ids == ["cat/1.png", "cow/1.png"]

    @pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "a\nb.png", "/etc/x.png", "C:\\x.png", "..", None])
    def test_ids_are_row_numbers_if_a_path_cannot_be_an_id(self, path, caplog):
        source = source_of(table(["a", "b"], ["a/x.png", path]))
        assert source.image_ids == ["train/00000000", "train/00000001"]
        assert "not every stored path makes an image id" in caplog.text

    def test_an_id_column(self):
        data = table(["a", "b", "a"], ["x.png"] * 3, key=["k/2", "k/1", "k/3"], number=[30, 4, 5])
        source = source_of(data, id_column="key", limit=2)
        assert source.image_ids == ["k/1", "k/2"]
        assert source.labels.tolist() == [1, 0]
        assert source.load(0).image.getpixel((0, 0))[0] == 1
        assert source_of(data, id_column="number").image_ids == ["30", "4", "5"]

    @pytest.mark.parametrize("name", ["../x", "/x", "a\tb", "", "a/..", None])
    def test_ids_that_are_not_safe(self, name):
        message = refusal(table(["a", "b"], key=["x", name]), id_column="key")
        assert "row 1 has the id" in message

    def test_ids_of_another_type(self):
        assert "ids are strings or integers" in refusal(table(["a"], key=[0.5]), id_column="key")

    def test_duplicate_ids(self):
        message = refusal(table(["a"] * 4, key=["x", "y", "z", "y"]), id_column="key")
        assert "rows 1 and 3 have the same image id 'y'" in message

    def test_file_names_that_occur_twice_are_no_ids(self, tmp_path, caplog):
        # cat/0.png and dog/0.png, saved with `save_to_disk` or as Parquet, keep only their names
        data = table([0, 0, 1, 1], ["0.png", "1.png", "0.png", "1.png"], names=["cat", "dog"])
        source = source_of(data, split="test")
        assert source.image_ids == [f"test/0000000{row}" for row in range(4)]
        assert source.labels.tolist() == [0, 0, 1, 1]
        assert "rows 0 and 2 both store the file name '0.png', so ids are split and row" in caplog.text

    def test_opening_loads_no_image_bytes(self, monkeypatch):
        data = table(["a", "b"], ["x.png", "y.png"])
        monkeypatch.setattr(datasets.Image, "decode_example", lambda *_: pytest.fail("an image was decoded"))
        monkeypatch.setattr(datasets.Dataset, "map", lambda *_, **__: pytest.fail("the rows were rewritten"))
        monkeypatch.setattr(DatasetImages, "open", lambda *_: pytest.fail("an image was opened"))
        read = []
        original = datasets.Dataset.__getitem__
        monkeypatch.setattr(
            datasets.Dataset, "__getitem__", lambda self, key: read.append(self.column_names) or original(self, key)
        )
        assert source_of(data).image_ids == ["x.png", "y.png"]
        assert read
        assert all(columns in (["image.path"], ["label"]) for columns in read)

    def test_rows_that_were_selected(self):
        data = table(["a", "b", "c", "d"], ["a.png", "b.png", "c.png", "d.png"]).select([3, 1])
        source = source_of(data)
        assert source.image_ids == ["b.png", "d.png"]
        assert source.class_names == ["b", "d"]
        assert source.load(1).image.getpixel((0, 0))[0] == 3

    def test_strings(self, tmp_path):
        source = source_of(table(["dog", "cat", "dog"]))
        assert (source.class_names, source.labels.tolist()) == (["cat", "dog"], [1, 0, 1])
        (tmp_path / "names.tsv").write_text("dog\tHund\ncow\tKuh\ncat\tKatze\n")
        source = source_of(table(["dog", "cat", "dog"]), class_names=str(tmp_path / "names.tsv"))
        assert (source.class_names, source.labels.tolist()) == (["Hund", "Kuh", "Katze"], [0, 2, 0])

    def test_integers_need_names(self, tmp_path):
        assert "--source.class_names" in refusal(table([0, 1]))
        (tmp_path / "names.txt").write_text("cat\ndog\n")
        source = source_of(table([1, 0]), class_names=str(tmp_path / "names.txt"))
        assert (source.class_names, source.labels.tolist()) == (["cat", "dog"], [1, 0])

    def test_integers_may_be_the_keys_of_the_names(self, tmp_path):
        (tmp_path / "names.tsv").write_text("7\tcat\n3\tdog\n")
        source = source_of(table([3, 7]), class_names=str(tmp_path / "names.tsv"))
        assert (source.class_names, source.labels.tolist()) == (["cat", "dog"], [1, 0])

    def test_class_labels_with_other_names(self, tmp_path):
        (tmp_path / "names.tsv").write_text("dog\tHund\ncat\tKatze\n")
        source = source_of(table([0, 1], names=["cat", "dog"]), class_names=str(tmp_path / "names.tsv"))
        assert (source.class_names, source.labels.tolist()) == (["Hund", "Katze"], [1, 0])

    @pytest.mark.parametrize("value", [-1, None])
    def test_class_labels_outside(self, value):
        message = refusal(table([0, value, 1], ["x.png", "y.png", "z.png"], names=["cat", "dog"]))
        shown = "null" if value is None else value
        assert f"1 of 3 images cannot be used, such as 'y.png': no label ({shown}) (there are 2 classes)" in message
        assert "--source.unlabeled skip" in message

    @pytest.mark.parametrize("value", [2, -1, None])
    def test_integers_outside(self, tmp_path, value):
        (tmp_path / "names.txt").write_text("cat\ndog\n")
        message = refusal(table([0, 1, value]), class_names=str(tmp_path / "names.txt"))
        shown = {2: "the label 2 is not among the classes", -1: "no label (-1)", None: "no label (null)"}[value]
        assert f"such as 'train/00000002': {shown}" in message

    @pytest.mark.parametrize("value", ["cow", None])
    def test_strings_outside(self, tmp_path, value):
        (tmp_path / "names.txt").write_text("cat\ndog\n")
        message = refusal(table(["cat", value]), class_names=str(tmp_path / "names.txt"))
        shown = "the label 'cow' is not among the classes" if value else "no label (null)"
        assert f"such as 'train/00000001': {shown}" in message

    def test_a_missing_string(self):
        assert "'train/00000001': no label (null)" in refusal(table(["cat", None]))
        assert "'train/00000001': no label ('')" in refusal(table(["cat", ""]))

    def test_labels_of_another_type(self):
        assert "must contain one class" in refusal(table([0.5, 1.0]))
        assert "must contain one class" in refusal(table([[0], [1]]))

    def test_unknown_columns(self):
        message = refusal(table(["a"], ["x.png"]), image_column="imaeg")
        assert "no column 'imaeg' (nearest: 'image'); it has image, label" in message
        assert "--source.image_column" in message
        assert "--source.label_column" in refusal(table(["a"]), label_column="fine_label")
        assert "no column 'zzz'; it has" in refusal(table(["a"]), id_column="zzz")

    def test_a_column_without_images(self):
        assert "is a int64, not an image" in refusal(table([1]), image_column="label")

    def test_streams_and_several_splits_are_refused(self):
        data = table(["a"])
        assert "IterableDataset is not map-style" in refusal(data.to_iterable_dataset())
        assert "DatasetDict is not map-style" in refusal(datasets.DatasetDict(train=data))

    def test_no_rows(self):
        assert "has no rows" in refusal(table(["a"]).select([]))

    def test_rows_without_an_image_are_unreadable(self, tmp_path):
        outside = tmp_path / "outside.png"
        outside.write_bytes(png())
        data = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": None, "path": str(outside)}, None, {"bytes": b"text", "path": None}],
                "label": ["a", "a", "b"],
            }
        ).cast_column("image", datasets.Image())
        source = source_of(data)
        reasons = []
        for place in range(3):
            with pytest.raises(ImageReadError) as caught:
                source.load(place)
            reasons.append(str(caught.value))
        assert reasons == [
            "cannot be opened (the row has no bytes, and its path is outside the dataset; see --source.image_root)",
            "cannot be opened (the row has no image)",
            "not an image, or an unsupported format",
        ]


class TestColumnsThatAreCast:
    """Images need not be a `datasets.Image`: naming the column is enough."""

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def check(self, source: Source, ids: list[str]) -> None:
        assert source.image_ids == ids
        assert [source.load(place).image.getpixel((0, 0))[0] for place in range(3)] == [0, 1, 2]

    def test_bytes(self):
        data = datasets.Dataset.from_dict({"jpg": [png((row, 0, 0)) for row in range(3)], "label": ["a", "b", "a"]})
        self.check(source_of(data, image_column="jpg"), [f"train/{row:08d}" for row in range(3)])

    def test_bytes_and_path(self):
        cells = [{"bytes": png((row, 0, 0)), "path": f"{row}.png"} for row in range(3)]
        data = datasets.Dataset.from_dict({"photo": cells, "label": ["a", "b", "a"]})
        self.check(source_of(data, image_column="photo"), ["0.png", "1.png", "2.png"])

    @pytest.mark.parametrize("stored", ["relative", "root", "absolute"])
    def test_paths(self, tmp_path, stored):
        for row in range(3):
            (tmp_path / "set" / "sub").mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / "sub" / f"{row}.png").write_bytes(png((row, 0, 0)))
        base = {"relative": "sub/", "root": "", "absolute": f"{tmp_path}/set/sub/"}[stored]
        lines = [f"{base}{row}.png,{'ab'[row % 2]}\n" for row in range(3)]
        file = tmp_path / "set" / "train.csv"
        file.write_text("photo,label\n" + "".join(lines))
        root = str(tmp_path / "set" / "sub") if stored == "root" else None
        config = SourceConfig(kind="dataset", path=str(file), image_column="photo", image_root=root)
        self.check(open_source(config), [f"{'sub/' if stored == 'relative' else ''}{row}.png" for row in range(3)])

    def test_paths_that_lead_out_of_the_folder(self, tmp_path):
        (tmp_path / "set").mkdir()
        (tmp_path / "outside.png").write_bytes(png())
        (tmp_path / "set" / "train.csv").write_text("image,label\n../outside.png,a\n")
        source = open_source(SourceConfig(kind="dataset", path=str(tmp_path / "set" / "train.csv")))
        with pytest.raises(ImageReadError, match="its path is outside the dataset"):
            source.load(0)


def error_of(**settings) -> str:
    """The one-line error raised by opening a stored dataset."""
    with pytest.raises(SourceError) as caught:
        open_source(SourceConfig(kind="dataset", **settings))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


class TestStoredDatasets:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        """Write prepared datasets to the test's own folder."""
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def open(self, path: Path, **settings) -> Source:
        return open_source(SourceConfig(kind="dataset", path=str(path), **settings))

    def test_saved_to_disk(self, tmp_path):
        table([1, 0], ["b.png", "a.png"], names=["cat", "dog"]).save_to_disk(tmp_path / "saved")
        source = self.open(tmp_path / "saved")
        assert (source.image_ids, source.labels.tolist()) == (["a.png", "b.png"], [0, 1])
        copy = pickle.loads(pickle.dumps(source))
        assert copy.fingerprint == source.fingerprint
        assert copy.load(1).image.getpixel((0, 0)) == (0, 0, 0)

    @pytest.mark.parametrize("kind", ["saved", "parquet", "folder"])
    def test_the_fingerprint_changes_when_an_image_is_replaced(self, tmp_path, kind):
        def write(red: int) -> None:
            if kind == "folder":
                for name in ("a", "b"):
                    (tmp_path / kind / name).mkdir(parents=True, exist_ok=True)
                    (tmp_path / kind / name / "x.png").write_bytes(png((red, 0, 0)))
                return
            data = datasets.Dataset.from_dict(
                {"image": [{"bytes": png((red, 0, 0)), "path": None}] * 2, "label": ["a", "b"]}
            ).cast_column("image", datasets.Image())
            if kind == "saved":
                shutil.rmtree(tmp_path / kind, ignore_errors=True)
                data.save_to_disk(tmp_path / kind)
            else:
                data.to_parquet(tmp_path / kind / "train.parquet")

        write(1)
        first = self.open(tmp_path / kind)
        assert self.open(tmp_path / kind).fingerprint == first.fingerprint
        write(2)
        second = self.open(tmp_path / kind)
        assert second.image_ids == first.image_ids
        assert second.load(0).image.getpixel((0, 0)) == (2, 0, 0)
        assert second.fingerprint != first.fingerprint

    def test_one_split_saved_to_disk_keeps_its_name(self, tmp_path):
        table(["a", "b"]).to_parquet(tmp_path / "parquet" / "test.parquet")
        data = datasets.load_dataset(str(tmp_path / "parquet"), split="test")
        data.save_to_disk(tmp_path / "saved")
        assert self.open(tmp_path / "saved", split="test").image_ids == ["test/00000000", "test/00000001"]
        assert "no split 'train'; it has test" in error_of(path=str(tmp_path / "saved"))

    def test_several_splits_saved_to_disk(self, tmp_path):
        splits = {"train": table(["a"]), "held-out": table(["a", "b"])}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        assert len(self.open(tmp_path / "saved", split="held-out")) == 2
        message = error_of(path=str(tmp_path / "saved"), split="val")
        assert "no split 'val'; it has train, held-out" in message

    def test_parquet(self, tmp_path):
        (tmp_path / "data").mkdir()
        table([1, 0], names=["cat", "dog"]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
        source = self.open(tmp_path, split="test")
        assert (source.class_names, source.image_ids) == (["cat", "dog"], ["test/00000000", "test/00000001"])
        assert source.load(1).image.getpixel((0, 0)) == (1, 0, 0)
        assert "no split 'train'; it has test" in error_of(path=str(tmp_path))

    def test_an_image_folder_opened_with_datasets_has_the_same_ids_and_labels(self, image_folder):
        source = self.open(image_folder)
        plain = open_source(SourceConfig(path=str(image_folder)))
        assert source.image_ids == plain.image_ids
        assert source.class_names == plain.class_names
        assert source.labels.tolist() == plain.labels.tolist()
        assert source.load(7).image.tobytes() == plain.load(7).image.tobytes()
        assert source.fingerprint != plain.fingerprint

    def test_data_loader_workers_load(self, image_folder):
        source = self.open(image_folder)
        loader = DataLoader(range(len(source)), num_workers=2, collate_fn=lambda items: source.load(items[0]).width)
        assert list(loader) == [96, 104, 112, 120] * 3

    def test_paths_that_are_not_datasets(self, tmp_path):
        assert "no such folder or file, and not a Hub id" in error_of(path=str(tmp_path / "no"))
        (tmp_path / "file").write_text("")
        assert "file: is no folder, and no .csv, .tsv, .jsonl" in error_of(path=str(tmp_path / "file"))
        (tmp_path / "empty").mkdir()
        assert "cannot be loaded" in error_of(path=str(tmp_path / "empty"))

    def test_an_unknown_configuration(self, tmp_path):
        table(["a"]).to_parquet(tmp_path / "train.parquet")
        message = error_of(path=str(tmp_path), config_name="other")
        assert "other" in message

    def test_a_hub_dataset_that_cannot_be_reached(self, monkeypatch):
        def unreachable(*_, **__):
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'some/photos' doesn't exist on the Hub")

        monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
        message = error_of(path="some/photos")
        assert message.startswith("some/photos (not a local folder, and could not be opened from the Hub)")

    def test_a_hub_dataset_is_asked_for_as_configured(self, monkeypatch):
        asked = []
        commit = "0" * 40
        monkeypatch.setattr(image_dataset, "resolve_commit", lambda path, revision: commit)
        monkeypatch.setattr(
            datasets, "get_dataset_split_names", lambda path, name, **rest: asked.append((path, name, rest)) or ["test"]
        )
        monkeypatch.setattr(
            datasets, "load_dataset", lambda path, name, **rest: asked.append((path, name, rest)) or table(["a"])
        )
        settings = {"split": "test", "config_name": "full", "revision": "v1"}
        source = open_source(SourceConfig(kind="dataset", path="some/photos", **settings))
        assert source.image_ids == ["test/00000000"]
        assert asked == [
            ("some/photos", "full", {"revision": commit}),
            ("some/photos", "full", {"revision": commit, "split": "test", "streaming": False}),
        ]
