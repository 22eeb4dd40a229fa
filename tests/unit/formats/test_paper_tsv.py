"""The paper's TSV: lines written and read by hand, and each kind of bad line with its number."""

import pyarrow.parquet as pq
import pytest
from releases import CLASSES, make_release

from hf_relabel.errors import FormatError, SourceError, UsageError
from hf_relabel.formats.paper_tsv import export_tsv, import_tsv
from hf_relabel.formats.releases import Names
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import verify

PAPER = (
    "n01440764/n01440764_10042.JPEG\t0\t0,391\t0.2654,1.0000\n"
    "n01440764/n01440764_10027.JPEG\t0\t0\t1.0000\n"
    "n02097474/n02097474_1.JPEG\t199\t\t\n"
)


def rows_of(folder, config_name="regions") -> list[dict]:
    return pq.read_table(folder / "data" / config_name).to_pylist()


def test_lines_of_the_paper_become_a_release(tmp_path):
    (tmp_path / "labels.tsv").write_text(PAPER)
    imported = import_tsv(tmp_path / "labels.tsv", tmp_path / "release", names=Names("2.1.0", "Paper", "train"))
    assert imported.facts == {"images": 3, "labels": 3}
    empty = {"label_score": None, "width": 0, "height": 0, "regions": [], "version": "2.1.0"}
    assert rows_of(tmp_path / "release") == [
        {"image_id": "n01440764/n01440764_10027.JPEG", "label": 0, "labels": [0], "scores": [1.0], **empty},
        {
            "image_id": "n01440764/n01440764_10042.JPEG",
            "label": 0,
            "labels": [391, 0],
            "scores": [1.0, pytest.approx(0.2654)],
            **empty,
        },
        {"image_id": "n02097474/n02097474_1.JPEG", "label": 199, "labels": [], "scores": [], **empty},
    ]
    release = Release.open(tmp_path / "release")
    verify(release)
    assert (release.name, release.version, len(release.class_names)) == ("Paper", "2.1.0", 1000)
    assert release.provenance["config"]["import"]["file"] == "labels.tsv"
    assert len(release.provenance["config"]["import"]["sha256"]) == 64
    export_tsv(release, tmp_path / "again.tsv")
    assert sorted((tmp_path / "again.tsv").read_text().splitlines()) == sorted(PAPER.splitlines())


def test_a_release_keeps_its_labels_to_four_places(tmp_path):
    release = make_release(tmp_path / "release", images=40)
    exported = export_tsv(release, tmp_path / "labels.tsv")
    assert (exported.images, exported.labels) == (40, release.statistics["labels"])
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    names = str(tmp_path / "names.txt")
    import_tsv(tmp_path / "labels.tsv", tmp_path / "back", names=Names(), class_names=names)
    for before, after in zip(
        rows_of(tmp_path / "release", "labels"), rows_of(tmp_path / "back", "labels"), strict=True
    ):
        assert (before["image_id"], before["label"]) == (after["image_id"], after["label"])
        scores = dict(zip(before["labels"], before["scores"], strict=True))
        assert {label: pytest.approx(score, abs=5.1e-5) for label, score in scores.items()} == dict(
            zip(after["labels"], after["scores"], strict=True)
        )
        assert after["scores"] == sorted(after["scores"], reverse=True)
    export_tsv(Release.open(tmp_path / "back"), tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "labels.tsv").read_bytes()


GOOD = "a/1.jpg\t0\t0,1\t0.5,1.0\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a/2.jpg\t0\t0\n", "has 3 columns instead of 4"),
        ("\n", "has 1 columns"),
        ("a/2.jpg\t0\t0,1\t0.5\n", "has 2 classes and 1 probabilities"),
        ("a/2.jpg\t0\t0,1000\t0.5,0.6\n", "contains class 1000, but valid classes are 0 to 999"),
        ("a/2.jpg\t-1\t0\t0.5\n", "contains class -1"),
        ("a/2.jpg\t\t0\t0.5\n", "has '' as the original class"),
        ("a/2.jpg\t0,1\t0\t0.5\n", "has '0,1' as the original class"),
        ("a/2.jpg\tcat\t0\t0.5\n", "'cat' is not a list of class indices"),
        ("a/2.jpg\t0\t0\thigh\n", "'high' is not a list of probabilities"),
        ("a/2.jpg\t0\t0\tnan\n", "'nan' is not a list of probabilities"),
        ("a/2.jpg\t0\t0\t1.5\n", "probabilities outside 0 to 1: '1.5'"),
        ("a/2.jpg\t0\t3,3\t0.5,0.5\n", "contains a class twice"),
        ("../2.jpg\t0\t0\t0.5\n", "not an image id"),
        ("/a/2.jpg\t0\t0\t0.5\n", "not an image id"),
        (GOOD, "the image 'a/1.jpg' is already on line 1"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path, line, reason):
    path = tmp_path / "labels.tsv"
    path.write_text(GOOD + line)
    with pytest.raises(FormatError, match="line 2: ") as caught:
        import_tsv(path, tmp_path / "release", names=Names())
    assert reason in str(caught.value)
    assert not (tmp_path / "release").exists()


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FormatError, match=r"cannot be read .No such file"):
        import_tsv(tmp_path / "none.tsv", tmp_path / "release", names=Names())
    (tmp_path / "latin.tsv").write_bytes(b"\xe9.jpg\t0\t0\t1.0\n")
    with pytest.raises(FormatError, match="not UTF-8"):
        import_tsv(tmp_path / "latin.tsv", tmp_path / "release", names=Names())
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(FormatError, match="has no lines"):
        import_tsv(tmp_path / "empty.tsv", tmp_path / "release", names=Names())
    (tmp_path / "good.tsv").write_text(GOOD)
    with pytest.raises(SourceError, match="cannot be read"):
        import_tsv(tmp_path / "good.tsv", tmp_path / "release", names=Names(), class_names=str(tmp_path / "no.txt"))
    with pytest.raises(UsageError, match="--version: must be three numbers"):
        Names("one")
    release = make_release(tmp_path / "made", images=2)
    (tmp_path / "there.tsv").write_text("mine")
    with pytest.raises(FormatError, match=r"already exists.*--overwrite"):
        export_tsv(release, tmp_path / "there.tsv")
    assert (tmp_path / "there.tsv").read_text() == "mine"
    export_tsv(release, tmp_path / "there.tsv", overwrite=True)
    assert (tmp_path / "there.tsv").read_text().count("\n") == 2
    with pytest.raises(FormatError, match="cannot be written"):
        export_tsv(release, tmp_path / "no" / "folder.tsv")
