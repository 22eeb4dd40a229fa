"""What `publish` refuses: files that are odd, were changed, or do not belong together, with hashes made again."""

import json
import os
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from releases import make_release

from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import EXCLUDED, MANIFEST
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import refuse_links, verify
from hf_relabel.run.store import sha256_of


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("good") / "release").folder


@pytest.fixture
def release(good, tmp_path):
    shutil.copytree(good, tmp_path / "release")
    return Release.open(tmp_path / "release")


def refusal(release):
    """The one line that refuses a release whose hashes and sizes are those of its files."""
    manifest = json.loads((release.folder / MANIFEST).read_text())
    for entry in manifest["files"]:
        path = release.folder / entry["path"]
        if path.is_file():
            entry |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (release.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError) as error:
        verify(Release.open(release.folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def to_fifo(path):
    path.unlink()
    os.mkfifo(path)


def to_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def to_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("replace", "words"),
    [
        (to_fifo, "not a regular file"),
        (to_device, "not a regular file"),
        (to_folder, "not a regular file"),
        (os.unlink, "No such file"),
    ],
)
@pytest.mark.parametrize("which", ["labels", "regions", EXCLUDED, MANIFEST])
def test_odd_files(release, replace, words, which):
    found = [file.path for file in release.files if which in (file.config_name, file.path)]
    path = release.folder / (found[0] if found else MANIFEST)
    replace(path)
    with pytest.raises(ReleaseError, match=words):
        verify(Release.open(release.folder))
    if which in ("labels", "regions"):
        with pytest.raises(ReleaseError, match=words):
            list(release.batches(which))


@pytest.mark.parametrize("name", ["data/labels", "data", MANIFEST, EXCLUDED])
def test_links_are_not_published(release, name, tmp_path):
    refuse_links(release)
    shutil.move(release.folder / name, tmp_path / "outside")
    (release.folder / name).symlink_to(tmp_path / "outside")
    verify(Release.open(release.folder))  # the Hub's cache consists of links
    with pytest.raises(ReleaseError, match="is a link"):
        refuse_links(release)


def swapped_names(table):
    features = json.loads(table.schema.metadata[b"huggingface"])
    features["info"]["features"]["label"]["names"].reverse()
    return table.replace_schema_metadata({"huggingface": json.dumps(features)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.slice(1), "rows, manifest.json says"),
        (lambda table: table.take(list(reversed(range(len(table))))), "does not follow the one before it"),
        (lambda table: table.drop_columns("scores"), "no column 'scores'"),
        (lambda table: table.set_column(2, "labels", pa.array(["x"] * len(table))), "'labels' is string"),
        (swapped_names, "other class names"),
        (lambda table: table.replace_schema_metadata(None), "other class names"),
        (
            lambda table: table.set_column(
                table.column_names.index("version"), "version", pa.array(["9.9.9"] * len(table))
            ),
            "`version` is not 1.0.0",
        ),
        (
            lambda table: table.set_column(1, "label", pa.array([0] * len(table))),
            "data/labels and data/regions have different rows",
        ),
    ],
)
def test_a_table_that_does_not_belong(release, change, words):
    path = release.path_of(release.files_of("labels")[0])
    pq.write_table(change(pq.read_table(path)), path)
    assert words in refusal(release)


def test_a_truncated_table(release):
    path = release.path_of(release.files_of("regions")[0])
    path.write_bytes(path.read_bytes()[:-200])
    assert "cannot be read as Parquet" in refusal(release)


def test_a_small_file_that_stands_for_much(release):
    """20 MB of text that compress to nothing, once per row."""
    path = release.path_of(release.files_of("labels")[0])
    table = pq.read_table(path)
    bomb = pa.array(["a" * 20_000_000]).take(pa.array([0] * len(table)))
    place = table.column_names.index("version")
    pq.write_table(table.slice(0, 3).set_column(place, "version", bomb.slice(0, 3)), path, compression="zstd")
    assert path.stat().st_size < 20_000
    with pytest.raises(ReleaseError, match=r"its column version has [\d,]+ bytes for 3 values"):
        list(replace(release, files=[replace(file, rows=3) for file in release.files]).batches("labels"))


@pytest.mark.parametrize("key", ["labels", "multi_label_share", "added_per_class", "excluded_images", "excluded"])
def test_statistics_are_counted_again(release, key):
    manifest = json.loads((release.folder / MANIFEST).read_text())
    changed = {"multi_label_share": 0.5, "added_per_class": [7, 0, 0, 0], "excluded": {"too sad": 1}}
    manifest["statistics"][key] = changed.get(key, 7)
    (release.folder / MANIFEST).write_text(json.dumps(manifest))
    assert f"statistics does not match the rows ({key}" in refusal(release)


@pytest.mark.parametrize("text", ["5\n", "{}\n", "[" * 100_000, '{"image_id": "a", "reason": 5}\n'])
def test_a_list_of_excluded_images_that_is_none(release, text):
    (release.folder / EXCLUDED).write_text(text)
    assert "is not a list of excluded images" in refusal(release)
