"""A manifest of any content is read, or refused in one line that names the value."""

import json

import pytest
from releases import CLASSES, make_release

from hf_relabel.errors import ReleaseError
from hf_relabel.release.layout import MANIFEST
from hf_relabel.release.reader import Release


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("manifest") / "release").folder


def refusal(folder, text):
    with pytest.raises(ReleaseError) as error:
        Release.parse(text, folder)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"5",
        b"null",
        b"\xff\xfe{}",
        b"{",
        DEEP.encode(),
        b'{"schema_version": 2}',
        b"\x00",
    ],
)
def test_what_is_no_manifest(folder, text):
    assert "damaged manifest" in refusal(folder, text)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("schema_version", True, "schema version True"),
        ("schema_version", [2], "schema version [2]"),
        ("version", "one", "version: must be three numbers"),
        ("version", 1, "version: must be three numbers"),
        ("name", None, "name: must be one line of text"),
        ("name", "\ud800", "not valid text"),
        ("name", "a\x1b[31mb", "name: must be one line of text, got 'a\\x1b[31mb'"),
        ("split", "a/b", "split: must be a name"),
        ("class_names", [], "class_names: must be a list"),
        ("class_names", "cats", "class_names: must be a list"),
        ("class_names", [*CLASSES[:-1], "a\nb"], "class_names: must be a list"),
        ("class_names", [*CLASSES[:-1], 5], "class_names: must be a list"),
        ("class_names", [*CLASSES[:-1], CLASSES[0]], "class_names: a name occurs twice"),
        ("class_names", CLASSES[:-1], "must be a list of 3 counts"),
        ("class_names", [*CLASSES, "more"], "must be a list of 5 counts"),
        ("statistics", {}, "has no 'images'"),
        ("statistics", [], "statistics: must be an object"),
        ("statistics.images", -1, "statistics.images: must be a count"),
        ("statistics.images", 10**400, "statistics.images: must be a count"),
        ("statistics.images", 59, "has 60 rows, but there are 59 images"),
        ("statistics.multi_label_share", 2, "must be a share"),
        ("statistics.mean_labels_per_image", float("nan"), "contains NaN"),
        ("statistics.labels_per_image", {"x": 1}, "must be counts by value"),
        ("statistics.label_pairs", [[0, 9, 1]], "must be a list of [class, class, count]"),
        ("statistics.scores_added", [0], "must be a list of 20 counts"),
        ("provenance", [], "provenance: must be an object"),
        ("provenance.config", 5, "provenance.config: must be an object"),
        ("provenance.config.source", "x", "provenance.config.source: must be an object"),
        ("provenance.note", json.loads("[" * 50 + "]" * 50), "nested too deeply"),
        ("provenance.corrections", [1], "provenance.corrections: must be an object"),
        ("provenance.fingerprint", [], "provenance.fingerprint: must be text"),
        ("provenance.scores", {"added": [10**400]}, "provenance.scores.added.0: must be at most"),
        ("splits", [], "splits: must be"),
        ("splits", {"train": {}, "test": {}}, "has no 'images'"),
        ("files", [], "does not have all files"),
        ("files", None, "files: must be a list"),
        ("files.0.path", "data/labels/a\x00b.parquet", "is not a file of a release"),
        ("files.0.path", "data/labels/a\nb.parquet", "is not a file of a release"),
        ("files.0.path", "../../etc/passwd", "is not a file of a release"),
        ("files.0.path", "/etc/passwd", "is not a file of a release"),
        ("files.0.path", ".git/config", "is not a file of a release"),
        ("files.0.path", "data/labels/run.sh", "is not a file of a release"),
        ("files.0.config_name", "regions", "is not a file of a release"),
        ("files.0.config_name", None, "is not a file of a release"),
        ("files.0.rows", "60", "files.0.rows: must be a count"),
        ("files.0.sha256", None, "files.0.sha256: must be text"),
        ("files.0.more", 1, "files.0: must be an object"),
    ],
)
def test_a_value_of_another_type_or_range(folder, key, value, words):
    manifest = json.loads((folder / MANIFEST).read_text())
    holder = manifest
    *path, last = (int(name) if name.isdigit() else name for name in key.split("."))
    for name in path:
        holder = holder[name]
    holder[last] = value
    assert words in refusal(folder, json.dumps(manifest))


def test_a_file_twice_and_one_of_several_missing(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    files = manifest["files"]
    assert "is listed twice" in refusal(folder, json.dumps({**manifest, "files": [*files, files[0]]}))
    without = [file for file in files if "00001-of" not in file["path"]]
    assert "does not have all files" in refusal(folder, json.dumps({**manifest, "files": without}))


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.encode("utf-16")])
def test_only_utf_8_is_json(folder, change):
    """Python would read these, other readers of the release would not."""
    assert "damaged manifest" in refusal(folder, change((folder / MANIFEST).read_text()))


def test_a_key_that_occurs_twice(folder):
    text = (folder / MANIFEST).read_text()
    assert "the key 'name' occurs twice" in refusal(folder, text.replace('"name":', '"name": "other", "name":', 1))
