"""Subsets of a source: by classes, by ids, and without unlabeled images; the same for folders and datasets."""

import os

import datasets
import pytest
from image_tables import table

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.schema import Excluded
from hf_relabel.sources.source import Source, open_source, source_of_dataset


@pytest.fixture(params=["folder", "dataset"])
def opened(request, image_folder):
    """Opens 12 images of 3 classes as a folder or a dataset."""

    def open_(**settings) -> Source:
        if request.param == "folder":
            return open_source(SourceConfig(path=str(image_folder), **settings))
        data = datasets.load_dataset("imagefolder", data_dir=str(image_folder), split="train")
        return source_of_dataset(data, SourceConfig(kind="dataset", path=str(image_folder), **settings))

    return open_


def refusal(opened, **settings) -> str:
    with pytest.raises(SourceError) as caught:
        opened(**settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_list_that_is_a_pipe(opened, tmp_path):
    os.mkfifo(tmp_path / "ids.txt")
    assert "not a regular file" in refusal(opened, only_ids=str(tmp_path / "ids.txt"))


def test_classes(opened, tmp_path):
    source = opened(only_classes=["triangle", "circle"])
    assert source.class_names == ["circle", "triangle"]
    assert source.labels.tolist() == [0] * 4 + [1] * 4
    assert source.image_ids[4] == "triangle/triangle_0.png"
    (tmp_path / "classes.txt").write_text("triangle\n\ncircle\n")
    assert opened(only_classes=str(tmp_path / "classes.txt")).fingerprint == source.fingerprint
    assert opened(only_classes=["triangle", "circle"], limit=2).image_ids == source.image_ids[:2]
    (tmp_path / "names.tsv").write_text("circle\tKreis\nsquare\tQuadrat\ntriangle\tDreieck\n")
    for words in (["square"], ["Quadrat"]):
        chosen = opened(class_names=str(tmp_path / "names.tsv"), only_classes=words)
        assert (chosen.class_names, len(chosen)) == (["Quadrat"], 4)
    assert "no class 'squares' (nearest: 'square')" in refusal(opened, only_classes=["squares"])
    assert "is empty" in refusal(opened, only_classes=[])
    assert "cannot be read" in refusal(opened, only_classes=str(tmp_path / "no.txt"))


def test_ids(opened, tmp_path):
    (tmp_path / "ids.txt").write_text("triangle/triangle_1.png\r\ncircle/circle_3.png\n")
    source = opened(only_ids=str(tmp_path / "ids.txt"))
    assert source.image_ids == ["circle/circle_3.png", "triangle/triangle_1.png"]
    assert source.labels.tolist() == [0, 2]
    assert source.load(0).width == 120
    (tmp_path / "ids.txt").write_text("circle/circle_3.png\ncircle_4.png\n")
    message = refusal(opened, only_ids=str(tmp_path / "ids.txt"))
    assert "1 of 2 ids are not in" in message
    assert "such as 'circle_4.png'; an id there is 'circle/circle_0.png'" in message


def test_unlabeled_images_are_skipped_and_listed(tmp_path):
    data = table([0, -1, None, 1], ["a.png", "b.png", "c.png", "d.png"], names=["cat", "dog"])
    config = SourceConfig(kind="dataset", path="photos", unlabeled="skip")
    source = source_of_dataset(data, config)
    assert source.image_ids == ["a.png", "d.png"]
    assert source.labels.tolist() == [0, 1]
    assert source.load(1).image.getpixel((0, 0))[0] == 3
    assert source.excluded == [Excluded("b.png", "no label (-1)"), Excluded("c.png", "no label (null)")]
    with pytest.raises(SourceError, match="no image is left"):
        source_of_dataset(table([-1], ["a.png"], names=["cat"]), config)


def test_an_unknown_class_is_skipped_too(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    config = SourceConfig(kind="dataset", path="p", class_names=str(tmp_path / "names.txt"), unlabeled="skip")
    source = source_of_dataset(table(["dog", "cow", "cat"]), config)
    assert source.labels.tolist() == [1, 0]
    assert source.excluded == [Excluded("train/00000001", "the label 'cow' is not among the classes")]
