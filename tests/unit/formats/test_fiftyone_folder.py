"""The folder for FiftyOne: `labels.json` and `data/` by file name, whole or not at all."""

import json

import pytest
from PIL import Image
from releases import make_release, make_rows

from hf_relabel.errors import FormatError
from hf_relabel.formats.fiftyone_folder import export_fiftyone
from hf_relabel.release.reader import Release


@pytest.fixture
def release(tmp_path) -> Release:
    """A release of 6 images, which lie in `images/`."""
    made = make_release(tmp_path / "release", images=6)
    for row in make_rows(6):
        path = tmp_path / "images" / row["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"])).save(path)
    return made


@pytest.mark.parametrize("copy", [False, True])
def test_every_file_name_of_the_labels_is_an_image_below_data(release, tmp_path, copy):
    exported = export_fiftyone(release, tmp_path / "folder", images=tmp_path / "images", copy=copy)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["data", "image_labels.json", "labels.json"]
    content = json.loads((tmp_path / "folder" / "labels.json").read_text())
    assert (exported.images, exported.regions) == (len(content["images"]), len(content["annotations"])) == (6, 7)
    for image in content["images"]:
        path = tmp_path / "folder" / "data" / image["file_name"]
        assert path.is_symlink() != copy
        with Image.open(path) as picture:
            assert picture.size == (image["width"], image["height"])


def test_labels_alone(release, tmp_path):
    export_fiftyone(release, tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["image_labels.json", "labels.json"]


def test_missing_images_are_counted_and_nothing_is_written(release, tmp_path):
    for name in ("00/img_0000000.jpg", "03/img_0000003.jpg"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(FormatError, match=r"2 of the release's 6 images are not there: '00/img_0000000\.jpg', '03"):
        export_fiftyone(release, tmp_path / "folder", images=tmp_path / "images")
    with pytest.raises(FormatError, match="no such folder"):
        export_fiftyone(release, tmp_path / "folder", images=tmp_path / "nowhere")
    assert not (tmp_path / "folder").exists()
    assert not list(tmp_path.glob(".*"))


def test_only_such_a_folder_is_replaced(release, tmp_path):
    export_fiftyone(release, tmp_path / "folder")
    with pytest.raises(FormatError, match=r"already exists.*--overwrite"):
        export_fiftyone(release, tmp_path / "folder")
    export_fiftyone(release, tmp_path / "folder", images=tmp_path / "images", overwrite=True)
    export_fiftyone(release, tmp_path / "folder", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["image_labels.json", "labels.json"]
    assert len(list((tmp_path / "images").rglob("*.jpg"))) == 6  # links go, what they lead to stays
    with pytest.raises(FormatError, match="contains other files"):
        export_fiftyone(release, tmp_path / "images", overwrite=True)


def test_images_that_differ_only_in_their_suffix_do_not_share_labels(tmp_path):
    """FiftyOne looks up the labels of an image by its path without the suffix."""
    rows = list(make_rows(3))
    for row, name in zip(rows, ("00/a.jpg", "00/a.png", "00/b.jpg"), strict=True):
        row["image_id"] = name
    export_fiftyone(make_release(tmp_path / "release", rows=rows), tmp_path / "folder")
    content = json.loads((tmp_path / "folder" / "image_labels.json").read_text())
    (found,) = content["labels"].values()
    assert list(content["labels"]) == ["00/b"]
    assert [item["confidence"] for item in found] == rows[2]["scores"]
