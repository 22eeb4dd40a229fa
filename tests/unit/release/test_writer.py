import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from full_disk import a_full_disk
from releases import CLASSES, as_version_1, make_release, make_rows

import hf_relabel.release.writer
from hf_relabel.errors import ReleaseError
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import verify
from hf_relabel.release.writer import write_release
from hf_relabel.schema import SCHEMA_VERSION, Excluded, release_schema


def rows_of(release, config_name="regions"):
    return [row for batch in release.batches(config_name) for row in batch.to_pylist()]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder, tables, **options):
    settings = {"class_names": CLASSES, "version": "1.0.0", "name": "Tiny", "provenance": {}}
    split = options.pop("split", "train")
    return write_release(folder, {split: tables}, **{**settings, **options})


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = sorted(make_rows(60), key=lambda row: row["image_id"])
    release = make_release(tmp_path / "release", rows=rows)
    expected = pa.Table.from_pylist(rows, schema=release_schema("regions", CLASSES)).to_pylist()  # scores as float32
    assert rows_of(release) == expected
    light = ("image_id", "label", "labels", "scores", "label_score", "version")
    assert rows_of(release, "labels") == [{key: row[key] for key in light} for row in expected]
    assert [file.rows for file in release.files_of("regions")] == [25, 25, 10]
    (path,) = [file.path for file in release.files_of("labels")]
    assert re.fullmatch(r"data/labels/train-00000-of-00001-[0-9a-f]{16}\.parquet", path)
    assert release.num_images == 60
    verify(release)
    (line,) = (release.folder / "excluded.jsonl").read_text().splitlines()
    assert json.loads(line) == {"image_id": "00/broken.jpg", "reason": "cannot identify image file"}


def test_files_end_before_they_have_too_many_bytes(tmp_path, monkeypatch):
    """The same rows in files of at most so many bytes, whatever the batches."""
    monkeypatch.setattr(hf_relabel.release.writer, "ROW_GROUP_ROWS", 300)
    rows = sorted(make_rows(1500), key=lambda row: row["image_id"])
    table = pa.Table.from_pylist(rows, schema=release_schema("regions", CLASSES))
    whole = write(tmp_path / "whole", [table], rows_per_file=2000)
    (file,) = whole.files_of("regions")
    monkeypatch.setattr(hf_relabel.release.writer, "MAX_FILE_BYTES", limit := 2 * file.bytes // 3)
    release = write(tmp_path / "parts", [table], rows_per_file=2000)
    pieces = write(tmp_path / "pieces", table.to_batches(max_chunksize=70), rows_per_file=2000)
    assert contents(release.folder) == contents(pieces.folder)
    files = release.files_of("regions")
    assert len(files) > 1
    assert max(file.bytes for file in files) <= limit
    assert rows_of(release) == rows_of(whole)
    verify(release)


def test_a_row_group_above_the_limit_gets_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_relabel.release.writer, "ROW_GROUP_ROWS", 30)
    monkeypatch.setattr(hf_relabel.release.writer, "MAX_FILE_BYTES", 1)
    rows = sorted(make_rows(100), key=lambda row: row["image_id"])
    table = pa.Table.from_pylist(rows, schema=release_schema("regions", CLASSES))
    release = write(tmp_path / "release", [table], rows_per_file=50)
    assert [file.rows for file in release.files_of("regions")] == [30, 20, 30, 20]
    assert [file.rows for file in release.files_of("labels")] == [30, 20, 30, 20]


def test_fewer_files_in_a_folder_than_the_hub_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_relabel.release.writer, "MAX_FOLDER_FILES", 4)
    rows = sorted(make_rows(60), key=lambda row: row["image_id"])
    table = pa.Table.from_pylist(rows, schema=release_schema("regions", CLASSES))
    assert len(write(tmp_path / "three", [table], rows_per_file=20).files_of("regions")) == 3
    splits = {"train": [table], "test": [table]}
    for tables, rows_per_file in (({"train": [table]}, 15), (splits, 20)):
        with pytest.raises(ReleaseError, match=r"data/regions: would have 4 files or more.*--build\.rows_per_file"):
            write_release(
                tmp_path / "four", tables, class_names=CLASSES, version="1.0.0", name="Tiny", provenance={},
                rows_per_file=rows_per_file,
            )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["three"]


def test_a_release_of_an_earlier_schema_version_is_read_with_nulls(tmp_path):
    release = make_release(tmp_path / "new")
    make_release(tmp_path / "old")
    old = as_version_1(tmp_path / "old")
    verify(old)
    expected = rows_of(release)
    for row in expected:
        row["label_score"] = None
        for region in row["regions"]:
            region["generator"] = None
    assert rows_of(old) == expected
    columns = ["regions", "label_score", "image_id"]
    assert list(old.rows("regions", columns)) == [{name: row[name] for name in columns} for row in expected]
    assert [row["label_score"] for row in old.rows("labels")] == [None] * len(expected)
    assert any(row["label_score"] is not None for row in release.rows("labels"))


def test_files_do_not_depend_on_how_the_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_relabel.release.writer, "ROW_GROUP_ROWS", 20)
    monkeypatch.setattr(hf_relabel.release.writer, "_STEP", 5)
    monkeypatch.setattr(hf_relabel.release.writer, "ROW_GROUP_BYTES", 4000)
    rows = sorted(make_rows(90), key=lambda row: row["image_id"])
    table = pa.Table.from_pylist(rows, schema=release_schema("regions", CLASSES))
    whole = write(tmp_path / "whole", [table], rows_per_file=32)
    pieces = write(tmp_path / "pieces", table.to_batches(max_chunksize=7), rows_per_file=32)
    assert contents(whole.folder) == contents(pieces.folder)
    assert [file.rows for file in whole.files_of("regions")] == [32, 32, 26]
    groups = pq.ParquetFile(whole.path_of(whole.files_of("regions")[0])).metadata
    sizes = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
    assert len(sizes) > 2, "large rows end a row group early"
    assert max(sizes) <= 20


def test_shards_are_written_for_small_uploads_and_a_fast_viewer(tmp_path):
    release = make_release(tmp_path / "release")
    for config_name in ("labels", "regions"):
        metadata = pq.ParquetFile(release.path_of(release.files_of(config_name)[0])).metadata
        column = metadata.row_group(0).column(0)
        assert column.compression == "ZSTD"
        assert column.has_offset_index
        assert column.has_column_index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.reverse(), "must be sorted by image_id"),
        (lambda rows: rows.insert(1, rows[0]), "and unique"),
        (
            lambda rows: rows[2].update(label=4),
            r"img_\d+\.jpg': `label` has class 4, but valid classes are 0 to 3",
        ),
        (lambda rows: rows[2].update(labels=[-1], scores=[1.0]), "`labels` has class -1"),
        (lambda rows: rows[2].update(labels=[0, 1], scores=[1.0]), "exactly one score for each of `labels`"),
        (lambda rows: rows[2].update(width=None), "`width` has no value"),
        (lambda rows: rows.clear(), "no image to release"),
    ],
)
def test_rows_that_are_refused(tmp_path, change, message):
    rows = sorted(make_rows(10), key=lambda row: row["image_id"])
    change(rows)
    table = pa.Table.from_pylist(rows, schema=release_schema("regions", CLASSES))
    with pytest.raises(ReleaseError, match=message):
        write(tmp_path / "release", [table])
    assert not list(tmp_path.iterdir()), "no files remain"


def test_an_empty_release_tells_why(tmp_path):
    excluded = [Excluded("a", "too small"), Excluded("b", "broken"), Excluded("c", "broken")]
    with pytest.raises(ReleaseError, match="3 excluded, most often: broken"):
        write(tmp_path / "release", [], excluded=excluded)


@pytest.mark.parametrize("split", ["", "a-b", "a b", "../a"])
def test_splits_that_datasets_would_not_take(tmp_path, split):
    with pytest.raises(ReleaseError, match="split"):
        make_release(tmp_path / "release", split=split)


def test_a_release_is_replaced_only_if_that_is_allowed(tmp_path):
    make_release(tmp_path / "release")
    with pytest.raises(ReleaseError, match="already contains a release"):
        make_release(tmp_path / "release", "1.1.0")
    assert make_release(tmp_path / "release", "1.1.0", overwrite=True).version == "1.1.0"
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_what_is_no_release_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(ReleaseError, match="exists and is not a release"):
            make_release(tmp_path / name, overwrite=True)
    assert (tmp_path / "photos" / "a.jpg").exists()


@pytest.mark.parametrize("most_bytes", [100, 12_000])
def test_a_full_disk_while_staging_leaves_the_release_that_is_there(tmp_path, most_bytes):
    release = make_release(tmp_path / "release")
    before = contents(release.folder)
    with a_full_disk(most_bytes), pytest.raises(ReleaseError, match=r"cannot be written .*nothing was changed"):
        make_release(tmp_path / "release", "1.1.0", images=200, rows_per_file=100, overwrite=True)
    assert contents(release.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_failure_of_whoever_makes_the_rows_leaves_the_release_that_is_there(tmp_path):
    release = make_release(tmp_path / "release")
    before = contents(release.folder)

    def tables():
        yield pa.Table.from_pylist(list(make_rows(1)), schema=release_schema("regions", CLASSES))
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        write(tmp_path / "release", tables(), overwrite=True)
    assert contents(release.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.mark.parametrize("damage", ["changed", "longer", "missing"])
def test_verify_names_the_file_that_is_not_as_it_was(tmp_path, damage):
    release = make_release(tmp_path / "release")
    path = release.path_of(release.files_of("regions")[1])
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "changed" else path.read_bytes() + b"x")
    with pytest.raises(ReleaseError, match=path.name):
        verify(release)


def test_a_file_that_is_no_parquet(tmp_path):
    release = make_release(tmp_path / "release")
    path = release.path_of(release.files_of("labels")[0])
    path.write_bytes(b"PAR1 no longer")
    with pytest.raises(ReleaseError, match=f"{path.name}: cannot be read as Parquet"):
        list(release.batches("labels"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, f"schema version {SCHEMA_VERSION + 1}, but this hf_relabel reads"),
        ({"files": [{"path": "x"}]}, "damaged manifest"),
    ],
)
def test_manifests_that_are_refused(tmp_path, change, message):
    folder = make_release(tmp_path / "release").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ReleaseError, match=message):
        Release.open(folder)


def test_folders_that_hold_no_manifest_or_a_broken_one(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ReleaseError, match="not a release"):
            Release.open(folder)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ReleaseError, match="damaged manifest"):
        Release.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ReleaseError, match="damaged manifest"):
        Release.open(tmp_path)
