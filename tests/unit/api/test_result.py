"""The result of a photo: its masks, its picture, and COCO that pycocotools reads."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hf_relabel.api.result import Region, Result
from hf_relabel.vision import masks

MASK = np.zeros((30, 40), bool)
MASK[5:15, 10:30] = True


@pytest.fixture
def result() -> Result:
    region = Region("dog", 0.9, masks.bbox(MASK), masks.area(MASK), masks.encode(MASK), 1)
    image = Image.new("RGB", (40, 30), (90, 90, 90))
    return Result("photos/dog.jpg", ["dog"], [0.9], [region], None, image, ["cat", "dog"])


def test_a_mask_as_pixels(result):
    assert np.array_equal(result.regions[0].mask, MASK)


def test_pycocotools_reads_it(result, tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result.to_coco()))
    coco = COCO(str(file))
    assert coco.loadImgs(1)[0]["file_name"] == "photos/dog.jpg"
    (annotation,) = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(["dog"])))
    assert np.array_equal(coco.annToMask(annotation).astype(bool), MASK)
    assert annotation["bbox"] == [10, 5, 20, 10]
    assert annotation["score"] == 0.9


def test_the_picture_shows_the_regions(result):
    shown = result.picture()
    assert shown.size == (512, 384)  # a small image is enlarged
    bare = Result("x", [], [], [], None, result.image, ["cat", "dog"]).picture()
    assert np.any(np.asarray(shown) != np.asarray(bare))


def test_a_notebook_displays_the_picture(result, monkeypatch):
    displayed = []
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=displayed.append))
    assert result.show() is None, "a notebook would show the value of the cell's last line as well"
    assert displayed == [result.picture()]


def test_a_script_opens_the_picture(result, monkeypatch):
    opened = []
    monkeypatch.setattr(Image.Image, "show", lambda self: opened.append(self))
    result.show()
    assert opened == [result.picture()]


def test_an_unreadable_image_has_no_picture():
    with pytest.raises(ValueError, match=r"broken\.jpg: not an image"):
        Result("broken.jpg", [], [], [], "not an image").show()
