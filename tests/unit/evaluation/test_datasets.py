"""Multi-label datasets in every format, written to a folder and read back."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_relabel.errors import ImageReadError, SourceError
from hf_relabel.evaluation.datasets import from_coco, from_dataset, from_rows, from_voc, open_labeled


def _save(folder, name, color):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(folder / name, "PNG")


@pytest.fixture
def coco(tmp_path):
    """A COCO file with gaps in the category ids, an image without objects, and unsorted images."""
    _save(tmp_path / "images", "b.png", "red")
    _save(tmp_path / "images", "a.png", "blue")
    content = {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 7, "category_id": 18},
            {"image_id": 7, "category_id": 1},
            {"image_id": 7, "category_id": 18},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json", tmp_path / "images"


def test_coco(coco):
    images = from_coco(*map(str, coco))
    assert images.class_names == ["person", "dog"]
    assert (images.image_ids, images.labels) == (["a.png", "b.png"], [[], [0, 1]])
    assert images.multi_hot.tolist() == [[False, False], [True, True]]
    assert images.load(1).getpixel((0, 0)) == (255, 0, 0)
    assert open_labeled(str(coco[0]), str(coco[1]), "x", "labels", "image").labels == images.labels


def test_two_categories_of_one_name_are_refused(coco):
    """`transfer` matches the classes of training and test images by name."""
    content = json.loads(coco[0].read_text())
    content["categories"][1]["name"] = "dog"
    coco[0].write_text(json.dumps(content))
    with pytest.raises(SourceError, match="the class name 'dog' occurs more than once"):
        from_coco(*map(str, coco))


def test_damaged_coco_files(coco, tmp_path):
    (coco[1] / "b.png").unlink()
    with pytest.raises(SourceError, match=r"1 of 2 images are not in .*: 'b.png'"):
        from_coco(*map(str, coco))
    with pytest.raises(SourceError, match="no such folder"):
        from_coco(str(coco[0]), str(tmp_path / "nowhere"))
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(SourceError, match="not a COCO detection file"):
        from_coco(str(other), str(coco[1]))
    other.write_text("{")
    with pytest.raises(SourceError, match="cannot be read"):
        from_coco(str(other), str(coco[1]))


@pytest.mark.parametrize(("place", "key"), [("categories", "name"), ("images", "file_name"), ("categories", "id")])
@pytest.mark.parametrize("value", [5, None, [], {"a": 1}])
def test_values_of_another_type_in_a_coco_file(coco, place, key, value):
    content = json.loads(coco[0].read_text())
    content[place][0][key] = value
    coco[0].write_text(json.dumps(content))
    with pytest.raises(SourceError):
        from_coco(*map(str, coco))


def test_file_names_outside_the_folder_are_refused(coco):
    content = json.loads(coco[0].read_text())
    content["images"][0]["file_name"] = "../instances.json"
    coco[0].write_text(json.dumps(content))
    with pytest.raises(SourceError, match="is outside"):
        from_coco(*map(str, coco))


def test_voc(tmp_path):
    for stem, names in (("001", ["dog", "person", "dog"]), ("002", ["cat"])):
        _save(tmp_path / "JPEGImages", f"{stem}.jpg", "white")
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("002\n001\n")
    images = open_labeled(str(tmp_path), None, "trainval", "labels", "image")
    assert images.class_names == ["cat", "dog", "person"]
    assert images.image_ids == ["001.jpg", "002.jpg"]
    assert images.multi_hot.tolist() == [[False, True, True], [True, False, False]]
    with pytest.raises(SourceError, match="not a VOC folder with the split 'test'"):
        from_voc(str(tmp_path), "test")


def test_rows_by_path(tmp_path):
    _save(tmp_path / "images" / "x", "1.png", "green")
    file = tmp_path / "labels.jsonl"
    file.write_text('{"image_id": "x/1.png", "objects": [{"class": "dog"}, {"class": "cat"}]}\n')
    images = from_rows(str(file), str(tmp_path / "images"))
    assert (images.class_names, images.labels) == (["cat", "dog"], [[1, 0]])
    assert images.with_classes(["dog", "bird", "cat"]).labels == [[0, 2]]
    with pytest.raises(SourceError, match="not among the 1 classes: 'cat'"):
        images.with_classes(["dog"])
    with pytest.raises(SourceError, match="also give the folder of its images"):
        open_labeled(str(file), None, "x", "labels", "image")


def _dataset(folder, **columns):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    rows = len(next(iter(columns.values())))
    images = [{"bytes": buffer.getvalue(), "path": None}] * rows
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    for name in columns:
        features["info"]["features"][name] = _FEATURES[name]
    table = pa.table({"image": images, **columns}).replace_schema_metadata({"huggingface": json.dumps(features)})
    folder.mkdir()
    pq.write_table(table, folder / "test.parquet")
    return str(folder)


_CLASS = {"names": ["cat", "dog"], "_type": "ClassLabel"}
_FEATURES = {
    "labels": {"feature": _CLASS, "_type": "List"},
    "names": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    "numbers": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"},
    "objects": {"category": {"feature": _CLASS, "_type": "List"}},
}


def test_dataset_columns(tmp_path):
    path = _dataset(
        tmp_path / "data",
        labels=[[0, 1], []],
        names=[["bird"], ["ape", "bird"]],
        numbers=[[0], [1]],
        objects=[{"category": [1, 1]}, {"category": [0]}],
    )
    images = open_labeled(path, None, "test", "labels", "image")
    assert (images.class_names, images.labels) == (["cat", "dog"], [[0, 1], []])
    assert images.image_ids == ["test/0", "test/1"]
    assert images.load(1).size == (4, 4)
    images = from_dataset(path, "test", labels_column="objects")
    assert (images.class_names, images.labels) == (["cat", "dog"], [[1], [0]])
    images = from_dataset(path, "test", labels_column="names")
    assert (images.class_names, images.labels) == (["ape", "bird"], [[1], [0, 1]])
    with pytest.raises(SourceError, match="classes are numbers without names"):
        from_dataset(path, "test", labels_column="numbers")
    assert from_dataset(path, "test", labels_column="numbers", class_names=["a", "b"]).labels == [[0], [1]]
    with pytest.raises(SourceError, match="no column 'tags'; the columns are image, labels"):
        from_dataset(path, "test", labels_column="tags")


def test_a_path_that_does_not_exist():
    with pytest.raises(SourceError, match="no such annotation file, VOC folder or dataset"):
        open_labeled("nowhere", None, "test", "labels", "image")


def test_unreadable_image(coco):
    (coco[1] / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageReadError, match=r"a\.png: not an image"):
        from_coco(*map(str, coco)).load(0)
