"""A folder without class folders, and the labels in a CSV, TSV, JSONL or Parquet file."""

import gc
import json
import logging
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_relabel.config import SourceConfig
from hf_relabel.errors import ImageReadError, SourceError, UsageError
from hf_relabel.schema import Excluded
from hf_relabel.sources.source import Source, open_source

ROWS = [("b.png", "dog"), ("sub/c.png", "cat"), ("a.jpg", "dog")]


@pytest.fixture
def images(tmp_path) -> Path:
    root = tmp_path / "photos"
    for red, (name, _) in enumerate(ROWS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (80 * red, 0, 0)).save(root / name)
    return root


def write(path: Path, rows: list[dict]) -> str:
    """A table file of the kind that its suffix names."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [list(rows[0]), *([("" if value is None else str(value)) for value in row.values()] for row in rows)]
        path.write_text("".join(mark.join(line) + "\n" for line in lines))
    return str(path)


def rows_of(name: str = "image", label: str = "label") -> list[dict]:
    return [{name: file, label: word} for file, word in ROWS]


def refusal(**settings) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(SourceConfig(**settings))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def check(source: Source) -> None:
    """The source is the one of `ROWS`."""
    assert source.image_ids == ["a.jpg", "b.png", "sub/c.png"]
    assert [source.class_names[label] for label in source.labels] == ["dog", "dog", "cat"]
    assert source.load(1).image.getpixel((0, 0)) == (0, 0, 0)
    assert source.load(2).image.getpixel((0, 0)) == (80, 0, 0)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_of_labels_beside_the_images(images, tmp_path, suffix):
    check(open_source(SourceConfig(path=str(images), labels=write(tmp_path / f"labels.{suffix}", rows_of()))))


@pytest.mark.parametrize("name", ["file_name", "image_id", "filename"])
def test_a_file_of_labels_as_the_source(images, name, caplog):
    with caplog.at_level(logging.WARNING):
        check(open_source(SourceConfig(path=write(images / "labels.csv", rows_of(name)))))
    assert not caplog.text


def test_other_columns_and_another_folder(images, tmp_path):
    file = write(tmp_path / "train.csv", rows_of("photo", "breed"))
    settings = {"image_column": "photo", "label_column": "breed", "image_root": str(images)}
    check(open_source(SourceConfig(path=file, **settings)))
    assert "no column 'label'; it has photo, breed" in refusal(path=file, image_column="photo", image_root=str(images))
    assert "no column 'image'; it has photo, breed" in refusal(path=file, label_column="breed", image_root=str(images))


def test_names_without_suffix_and_with_leading_zeros(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number:03d}.png")
    file = write(tmp_path / "labels.csv", [{"id": f"{number:03d}", "label": "ab"[number % 2]} for number in range(3)])
    assert open_source(SourceConfig(path=file)).image_ids == ["000.png", "001.png", "002.png"]
    Image.new("RGB", (8, 6)).save(tmp_path / "001.jpg")
    assert "row 2 names '001', which could be '001.jpg', '001.png'; write the suffix" in refusal(path=file)


def test_images_and_rows_without_a_counterpart_are_reported(images, tmp_path, caplog):
    Image.new("RGB", (8, 6)).save(images / "other.png")
    file = write(tmp_path / "labels.csv", [*rows_of(), {"image": "gone.png", "label": "cat"}])
    with caplog.at_level(logging.WARNING):
        source = open_source(SourceConfig(path=str(images), labels=file))
    assert "1 of 4 images have no file, such as 'gone.png'" in caplog.text
    assert "skipped 1 other files, such as 'other.png'" in caplog.text
    with pytest.raises(ImageReadError, match="No such file"):
        source.load(source.image_ids.index("gone.png"))
    message = refusal(path=write(tmp_path / "labels.csv", rows_of()), image_root=str(images / "sub"))
    assert "none of its 3 names is an image in" in message
    assert "such as 'b.png'; an image there is 'c.png'" in message


def test_labels_that_are_missing_are_refused_or_skipped(images, tmp_path):
    rows = rows_of()
    none = write(tmp_path / "none.jsonl", [{**row, "label": None} for row in rows])
    assert "none of the 3 rows has a label in 'label'" in refusal(path=str(images), labels=none)
    rows[0]["label"] = None
    file = write(tmp_path / "labels.csv", rows)
    message = refusal(path=str(images), labels=file)
    assert "1 of 3 images cannot be used, such as 'b.png': no label (null)" in message
    assert "--source.unlabeled skip" in message
    source = open_source(SourceConfig(path=str(images), labels=file, unlabeled="skip"))
    assert source.image_ids == ["a.jpg", "sub/c.png"]
    assert source.excluded == [Excluded("b.png", "no label (null)")]
    rows[0]["label"] = "-1"  # as numbers are marked, and so it is not a class
    source = open_source(SourceConfig(path=str(images), labels=write(tmp_path / "l.csv", rows), unlabeled="skip"))
    assert source.class_names == ["cat", "dog"]
    assert source.excluded == [Excluded("b.png", "no label ('-1')")]


def test_a_refusal_is_all_that_is_printed(images, tmp_path, monkeypatch):
    """A listing on disk that ends with an error leaves no writer behind, which Python would report at its end."""
    rows = rows_of()
    rows[0]["label"] = None
    file, left = write(tmp_path / "labels.csv", rows), []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    with pytest.raises(SourceError, match="1 of 3 images cannot be used"):
        open_source(SourceConfig(path=str(images), labels=file), tmp_path)
    gc.collect()
    assert not left


def test_wnids_are_classes_of_imagenet(images, tmp_path):
    rows = [{"image": name, "label": {"cat": "n02123045", "dog": "n02084071"}[word]} for name, word in ROWS]
    rows = [row | {"label": row["label"].replace("n02084071", "n02110958")} for row in rows]
    source = open_source(SourceConfig(path=str(images), labels=write(tmp_path / "labels.csv", rows)))
    assert len(source.class_names) == 1000
    assert source.labels.tolist() == [254, 254, 281]


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../b.png", None])
def test_names_that_lead_out_of_the_folder(images, tmp_path, name):
    file = write(tmp_path / "labels.jsonl", [{"image": "b.png", "label": "dog"}, {"image": name, "label": "dog"}])
    assert "row 2 has the file name" in refusal(path=str(images), labels=file)


def test_files_that_are_wrong(images, tmp_path):
    def error(text: str, suffix: str = "csv") -> str:
        (tmp_path / f"labels.{suffix}").write_text(text)
        return refusal(path=str(images), labels=str(tmp_path / f"labels.{suffix}"))

    assert "row 2 names 'b.png' again" in error("image,label\nb.png,dog\nb.png,cat\n")
    assert "cannot be read" in error("image,label\nb.png,dog,more\n")
    assert "surrogates not allowed" in error('{"image": "\\ud800.png", "label": "dog"}\n', "jsonl")
    assert "line 2: not valid JSON (nested too deeply)" in error("{}\n" + "[" * 100_000, "jsonl")
    assert "line 2: not valid JSON" in error('{"image": "b.png", "label": "dog"}\n{\n', "jsonl")
    assert "line 1: must be an object" in error("[1]\n", "jsonl")
    assert "cannot be read" in error("no parquet", "parquet")
    assert "must end in .csv" in error("", "txt")
    assert "has no rows" in error("image,label\n")
    assert "labels.csv: no such file" in refusal(path=str(images), labels="labels.csv")
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": "b.png"}], "label": ["a"]}), tmp_path / "labels.parquet")
    assert "needs --source.kind dataset" in refusal(path=str(tmp_path / "labels.parquet"))
    with pytest.raises(UsageError, match=r"source\.labels: must be null for source\.kind dataset"):
        SourceConfig(kind="dataset", path="a/b", labels="labels.csv")


def test_a_table_needs_neither_datasets_nor_torch(images, tmp_path):
    code = (
        "import sys; from hf_relabel.config import SourceConfig; from hf_relabel.sources import source; "
        "source.open_source(SourceConfig(path=sys.argv[1], labels=sys.argv[2])).load(0); "
        "sys.exit(bool({'datasets', 'torch'} & set(sys.modules)))"
    )
    file = write(tmp_path / "labels.csv", rows_of())
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(images), file], cwd=root, timeout=120, check=False)
    assert done.returncode == 0
