"""Masks of a COCO file for a source's images: whatever form they have, and what is left out is counted."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hf_relabel.errors import FormatError
from hf_relabel.formats.coco_file import CocoFile
from hf_relabel.formats.given_masks import DEGENERATE, NO_MASK, GivenMasks, MaskError, identity_of
from hf_relabel.sources.decoding import decode
from hf_relabel.vision import masks

LEFT = np.zeros((4, 6), bool)
LEFT[:, :3] = True
DOT = np.zeros((4, 6), bool)
DOT[1, 4] = True
POLYGON = [0, 0, 3, 0, 3, 4, 0, 4]

IDS = ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]


def cutler(*annotations: dict, images: tuple[str, ...] = ("dog/3.jpg", "cat/1.jpg")) -> dict:
    """A file as CutLER writes it: one category, and images that need not be in order."""
    return {
        "info": {"description": "MaskCut"},
        "licenses": [],
        "categories": [{"id": 1, "name": "fg", "supercategory": "fg"}],
        "images": [
            {"id": 100 + k, "file_name": name, "width": 6, "height": 4, "license": 1} for k, name in enumerate(images)
        ],
        "annotations": [{"id": k, "category_id": 1, "iscrowd": 0} | item for k, item in enumerate(annotations)],
    }


def write(tmp_path, content) -> str:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    return str(path)


def masks_of(given: GivenMasks, image_id: str) -> tuple[list[np.ndarray], Counter]:
    dropped: Counter[str] = Counter()
    return list(given.of(image_id, 4, 6, dropped)), dropped


@pytest.mark.parametrize(
    "segmentation",
    [masks.encode(LEFT), {"size": [4, 6], "counts": [0, 12, 12]}, [POLYGON]],
    ids=["compressed", "uncompressed", "polygon"],
)
def test_every_form_of_a_mask(tmp_path, segmentation):
    content = cutler(
        {"image_id": 101, "segmentation": masks.encode(DOT)}, {"image_id": 101, "segmentation": segmentation}
    )
    given = GivenMasks.open(write(tmp_path, content), IDS)
    found, dropped = masks_of(given, "cat/1.jpg")
    np.testing.assert_array_equal(found, [DOT, LEFT])
    assert not dropped


def test_what_has_no_counterpart_is_counted(tmp_path, caplog):
    content = cutler(
        {"image_id": 101, "segmentation": masks.encode(LEFT)},
        {"image_id": 102, "segmentation": masks.encode(LEFT)},
        {"image_id": 102, "segmentation": masks.encode(DOT)},
        {"image_id": 999, "segmentation": masks.encode(DOT)},
        {"image_id": 101, "bbox": [0, 0, 1, 1]},
        {"image_id": 101, "segmentation": []},
        images=("dog/3.jpg", "cat/1.jpg", "cow/9.jpg"),
    )
    content["categories"].append({"id": 2, "name": "bg"})
    given = GivenMasks.open(write(tmp_path, content), IDS)
    assert given.left_out == [
        "1 images are not in the source, with 2 masks (such as 'cow/9.jpg')",
        "1 annotations belong to images that the file does not list",
        "2 of the source's 3 images have no mask (such as 'cat/2.jpg')",
        "its 2 categories are ignored, because proposals have no class",
    ]
    given.warn_of_left_out()
    assert len(caplog.records) == 4
    found, dropped = masks_of(given, "cat/1.jpg")
    assert len(found) == 1
    assert dropped == {NO_MASK: 2}
    assert masks_of(given, "cat/2.jpg") == ([], Counter())
    assert masks_of(given, "dog/3.jpg") == ([], Counter())


def test_a_bare_list_names_its_images(tmp_path):
    items = [
        {"image_id": "dog/3.jpg", "segmentation": masks.encode(LEFT)},
        {"image_id": 3, "file_name": "cat/1.jpg", "segmentation": masks.encode(DOT)},
        {"image_id": "dog/3.jpg", "segmentation": masks.encode(DOT)},
    ]
    given = GivenMasks.open(write(tmp_path, items), IDS)
    np.testing.assert_array_equal(masks_of(given, "dog/3.jpg")[0], [LEFT, DOT])
    np.testing.assert_array_equal(masks_of(given, "cat/1.jpg")[0], [DOT])
    del items[1]["file_name"]
    with pytest.raises(
        FormatError, match=r"line 1: an annotation in a bare list needs the `file_name` of its image, got image_id 3"
    ):
        GivenMasks.open(write(tmp_path, items), IDS)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (masks.encode(LEFT.T), r"has size \[6, 4\], but the image has \[4, 6\]"),
        ({"size": [4, 6], "counts": "PP"}, "not COCO's compressed run lengths"),
        ([[1, 2, 3]], "a polygon that is not"),
    ],
)
def test_a_mask_that_does_not_fit_its_image_is_told_with_its_line(tmp_path, segmentation, reason):
    given = GivenMasks.open(write(tmp_path, cutler({"image_id": 101, "segmentation": segmentation})), IDS)
    with pytest.raises(MaskError, match=f"line 1: annotation 0: its `segmentation` .*{reason}"):
        masks_of(given, "cat/1.jpg")


def test_a_degenerate_polygon_drops_only_itself(tmp_path):
    """Annotation tools write lines and single clicks as polygons."""
    content = cutler(
        {"image_id": 101, "segmentation": [[1, 1, 2, 2], POLYGON, [], [3, 3]]},
        {"image_id": 101, "segmentation": [[0, 0, 3, 3]]},
    )
    found, dropped = masks_of(GivenMasks.open(write(tmp_path, content), IDS), "cat/1.jpg")
    np.testing.assert_array_equal(found, [LEFT])
    assert dropped == {DEGENERATE: 4, NO_MASK: 1}


STORED = np.zeros((4, 6), bool)
STORED[0, :4] = STORED[1, 0] = True


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["run lengths", "polygon"])
def test_masks_of_stored_pixels_are_turned_like_the_picture(tmp_path, orientation, form):
    """CutLER's maskcut.py opens photos without their EXIF orientation."""
    mask, segmentation = (STORED, masks.encode(STORED)) if form == "run lengths" else (LEFT, [POLYGON])
    picture = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "1.png", exif=exif)
    with open(tmp_path / "1.png", "rb") as file:
        loaded = decode(file)
    content = cutler({"image_id": 101, "segmentation": segmentation})
    given = GivenMasks.open(write(tmp_path, content), IDS)
    (found,) = given.of("cat/1.jpg", loaded.height, loaded.width, Counter(), loaded.orientation)
    np.testing.assert_array_equal(found, np.asarray(loaded.image)[..., 0] > 0)


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_masks_of_the_upright_picture_are_kept(tmp_path, orientation):
    height, width = STORED.shape
    content = cutler({"image_id": 101, "segmentation": masks.encode(STORED)})
    content["info"]["hf_relabel"] = {"name": "an export of this package"}
    ours = GivenMasks.open(write(tmp_path, content), IDS)
    np.testing.assert_array_equal(list(ours.of("cat/1.jpg", height, width, Counter(), orientation)), [STORED])
    del content["info"]["hf_relabel"]
    told = GivenMasks.open(write(tmp_path, content), IDS, "upright")
    np.testing.assert_array_equal(list(told.of("cat/1.jpg", height, width, Counter(), orientation)), [STORED])
    other = GivenMasks.open(write(tmp_path, content), IDS)
    (found,) = other.of("cat/1.jpg", height, width, Counter(), orientation)
    assert np.array_equal(found, STORED) == (orientation == 6), "only where the sides are swapped does the size tell"


def test_masks_of_neither_size_are_refused(tmp_path):
    given = GivenMasks.open(write(tmp_path, cutler({"image_id": 101, "segmentation": masks.encode(LEFT)})), IDS)
    with pytest.raises(MaskError, match=r"annotation 0: its `segmentation` has size \[4, 6\]"):
        list(given.of("cat/1.jpg", 8, 12, Counter(), 6))


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        identity_of(str(tmp_path / "none.json"))
    with pytest.raises(
        FormatError, match=r"contains no image of the source: its first image is 'train/x.jpg', the source's is 'cat/1"
    ):
        GivenMasks.open(write(tmp_path, cutler(images=("train/x.jpg",))), IDS)
    with pytest.raises(FormatError, match="lists no images"):
        GivenMasks.open(write(tmp_path, {"annotations": []}), IDS)
    with pytest.raises(FormatError, match=r"the image 'cat/1\.jpg' occurs twice"):
        GivenMasks.open(write(tmp_path, cutler(images=("cat/1.jpg", "cat/1.jpg"))), IDS)


def test_the_identity_of_a_file_is_its_content_and_name(tmp_path):
    one = identity_of(write(tmp_path, cutler()))
    assert one == identity_of(str(tmp_path / "masks.json"))
    assert one["file"] == "masks.json"
    assert one["sha256"] != identity_of(write(tmp_path, cutler(images=("cat/2.jpg",))))["sha256"]


def test_annotations_are_found_again_by_their_place(tmp_path):
    """Many annotations, in an order unrelated to that of the images."""
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 20, 500)
    content = cutler(
        *({"image_id": 100 + int(owner), "note": "ü" * int(rng.integers(0, 9))} for owner in owners),
        images=tuple(f"ü/{k}.jpg" for k in range(20)),
    )
    file = tmp_path / "masks.json"
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    coco = CocoFile(file)
    assert (coco.annotations, coco.strays) == (500, 0)
    for place in range(20):
        assert coco.image(place).value == content["images"][place]
        expected = [item for item in content["annotations"] if item["image_id"] == 100 + place]
        assert [entry.value for entry in coco.annotations_of(place)] == expected
        assert coco.count(place) == len(expected)
