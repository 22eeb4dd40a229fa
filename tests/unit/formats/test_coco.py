"""COCO JSON of a release: equal after a round trip, readable by pycocotools, and refused with its line when damaged."""

import json
import os

import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from releases import CLASSES, as_version_1, make_release, make_rows

from hf_relabel.errors import FormatError, RelabelError, ReleaseError, UsageError
from hf_relabel.formats.coco_export import export_coco
from hf_relabel.formats.coco_import import import_coco
from hf_relabel.release.layout import EXCLUDED
from hf_relabel.release.reader import Release
from hf_relabel.release.verify import verify
from hf_relabel.vision import masks


def rows_of(folder) -> list[dict]:
    return [
        row
        for file in Release.open(folder).files_of("regions")
        for row in pq.read_table(folder / file.path).to_pylist()
    ]


def test_every_row_survives_a_round_trip(tmp_path):
    release = make_release(tmp_path / "release", "1.2.3", images=60)
    exported = export_coco(release, tmp_path / "coco.json")
    counted = release.statistics
    assert (exported.images, exported.labels, exported.regions) == (60, counted["labels"], counted["regions"])
    imported = import_coco(tmp_path / "coco.json", tmp_path / "back")
    assert imported.facts == {
        "images": 60,
        "labels": counted["labels"],
        "regions": counted["regions"],
        "excluded images": 1,
    }
    assert not any(imported.left_out.values())
    assert rows_of(tmp_path / "back") == rows_of(tmp_path / "release")
    back = Release.open(tmp_path / "back")
    verify(back)
    for key in ("version", "name", "split", "class_names", "statistics"):
        assert getattr(back, key) == getattr(release, key), key
    assert back.provenance.pop("imported")["file"] == "coco.json"
    assert back.provenance == release.provenance
    assert (tmp_path / "back" / EXCLUDED).read_bytes() == (tmp_path / "release" / EXCLUDED).read_bytes()
    export_coco(make_release(tmp_path / "again", "1.2.3", images=60), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "coco.json").read_bytes()


@pytest.mark.parametrize("form", ["polygons", "uncompressed-rle"])
def test_other_forms_of_masks_give_the_same_rows(tmp_path, form):
    release = make_release(tmp_path / "release", images=20)
    export_coco(release, tmp_path / "coco.json", masks=form)
    import_coco(tmp_path / "coco.json", tmp_path / "back")
    assert rows_of(tmp_path / "back") == rows_of(tmp_path / "release")


def test_files_of_one_size_are_equal_to_the_byte(tmp_path):
    make_release(tmp_path / "release", rows_per_file=100_000)
    export_coco(Release.open(tmp_path / "release"), tmp_path / "coco.json")
    import_coco(tmp_path / "coco.json", tmp_path / "back")
    for path in (tmp_path / "release").rglob("*.parquet"):
        assert (tmp_path / "back" / path.relative_to(tmp_path / "release")).read_bytes() == path.read_bytes()


def test_pycocotools_reads_it_and_every_mask_has_its_area_and_box(tmp_path, capsys):
    release = make_release(tmp_path / "release")
    export_coco(release, tmp_path / "coco.json")
    coco = COCO(tmp_path / "coco.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == CLASSES
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "release")}
    assert len(coco.imgs) == len(rows)
    regions = 0
    for image_id, image in coco.imgs.items():
        row = rows[image["file_name"]]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(annotations) == len(row["regions"])
        for annotation, region in zip(annotations, row["regions"], strict=True):
            mask = coco.annToMask(annotation)
            assert mask.shape == (image["height"], image["width"]) == (row["height"], row["width"])
            assert mask.sum() == annotation["area"] == region["area"] > 0
            assert (
                masks.bbox(mask.astype(bool)) == annotation["bbox"] == coco_mask.toBbox(region["segmentation"]).tolist()
            )
            assert annotation["category_id"] == region["label"] + 1
            assert annotation["score"] == pytest.approx(region["score"])
            regions += 1
    assert regions == release.statistics["regions"] > 50


def test_an_image_of_each_kind_by_hand(tmp_path):
    mask = {"size": [2, 3], "counts": "132"}  # 1 clear, 3 set, 2 clear, down the columns
    region = {
        "region_id": "é/1.png#0", "label": 1, "score": 0.1, "top_labels": [1, 0], "top_scores": [0.1, 1 / 3],
        "bbox": [0.0, 0.0, 2.0, 2.0], "area": 3, "generator": "merge", "segmentation": mask,
    }  # fmt: skip
    rows = [
        {"image_id": "a.png", "label": 1, "labels": [], "scores": [], "width": 0, "height": 0, "regions": []},
        {
            "image_id": "é/1.png",
            "label": 0,
            "labels": [0],
            "scores": [0.7],
            "label_score": 0.2,
            "width": 3,
            "height": 2,
            "regions": [region],
        },
    ]
    make_release(tmp_path / "release", rows=rows, class_names=["cat", 'dog "é"'], excluded=[])
    export_coco(Release.open(tmp_path / "release"), tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert content["categories"] == [
        {"id": 1, "name": "cat", "supercategory": "object"},
        {"id": 2, "name": 'dog "é"', "supercategory": "object"},
    ]
    assert content["images"] == [
        {
            "id": 1, "file_name": "a.png", "width": 0, "height": 0,
            "original_category_id": 2, "category_ids": [], "scores": [],
        },
        {
            "id": 2, "file_name": "é/1.png", "width": 3, "height": 2,
            "original_category_id": 1, "category_ids": [1], "scores": [0.7], "label_score": 0.2,
        },
    ]  # fmt: skip
    assert content["annotations"] == [
        {
            "id": 1, "image_id": 2, "category_id": 2, "segmentation": mask, "bbox": [0.0, 0.0, 2.0, 2.0], "area": 3,
            "iscrowd": 0, "score": 0.1, "region_id": "é/1.png#0", "top_category_ids": [2, 1],
            "top_scores": [0.1, 0.33333334], "generator": "merge",
        }
    ]  # fmt: skip
    assert content["excluded"] == []
    import_coco(tmp_path / "coco.json", tmp_path / "back")
    assert rows_of(tmp_path / "back") == rows_of(tmp_path / "release")


def test_a_release_of_schema_version_1(tmp_path):
    make_release(tmp_path / "release", images=20)
    export_coco(as_version_1(tmp_path / "release"), tmp_path / "coco.json")
    assert "label_score" not in (tmp_path / "coco.json").read_text()
    import_coco(tmp_path / "coco.json", tmp_path / "back")
    rows = list(Release.open(tmp_path / "back").rows("regions"))
    assert rows == list(Release.open(tmp_path / "release").rows("regions"))
    assert {row["label_score"] for row in rows} == {None}


def test_items_in_another_order_and_without_an_image(tmp_path):
    """What a user may do to a file: sort it, indent it, take images out."""
    make_release(tmp_path / "release", images=12)
    export_coco(Release.open(tmp_path / "release"), tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    removed = next(
        image for image in content["images"] if any(a["image_id"] == image["id"] for a in content["annotations"])
    )
    lost = sum(annotation["image_id"] == removed["id"] for annotation in content["annotations"])
    content["images"] = [image for image in reversed(content["images"]) if image is not removed]
    content = dict(reversed(content.items()))
    (tmp_path / "changed.json").write_text(json.dumps(content, indent=2))
    imported = import_coco(tmp_path / "changed.json", tmp_path / "back", version="1.0.1", name="Fewer", split="val")
    assert imported.left_out == {"annotations for images that the file does not list": lost}
    expected = [
        row | {"version": "1.0.1"} for row in rows_of(tmp_path / "release") if row["image_id"] != removed["file_name"]
    ]
    assert rows_of(tmp_path / "back") == expected
    back = Release.open(tmp_path / "back")
    assert (back.version, back.name, back.split) == ("1.0.1", "Fewer", "val")


def change(content: dict, path: str, value) -> None:
    """Set a leaf named such as `images.0.width`; None removes it."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("info.hf_relabel", None, "has no info.hf_relabel; hf-relabel did not export this file"),
        ("info.hf_relabel.schema_version", 99, "schema version 99, this hf_relabel reads"),
        ("info.hf_relabel.split", 3, "info.hf_relabel.split is 3"),
        (
            "info.hf_relabel.version",
            "new",
            "info.hf_relabel.version is not a version; set one (--version: must be three numbers",
        ),
        ("categories", None, "has no categories"),
        ("categories.1.id", 7, "category 2 is"),
        ("categories.1.name", None, "category 2 is"),
        ("categories.1.name", "a\x1b[31mb", "the category name 'a\\x1b[31mb' is not one line"),
        ("categories.1.name", "cat", "two categories are named 'cat'"),
        ("excluded.0.reason", None, "`excluded` contains"),
        ("images", [], "lists no images"),
        ("images.1.id", 1, "line 11: the image id 1 occurs twice"),
        ("images.1.id", None, "line 11: an image needs an `id`"),
        ("images.1.file_name", "00/img_0000000.jpg", "line 11: the image '00/img_0000000.jpg' occurs twice"),
        ("images.1.file_name", "../up.jpg", "line 11: file_name '../up.jpg' is not an image id"),
        ("images.1.file_name", "/etc/up.jpg", "line 11: file_name '/etc/up.jpg' is not an image id"),
        ("images.1.original_category_id", None, "line 11: has no 'original_category_id'; hf-relabel did not export"),
        ("images.1.original_category_id", 0, "line 11: 'original_category_id' contains the category 0, but there are"),
        ("images.1.category_ids", [5], "line 11: 'category_ids' contains the category 5"),
        ("images.1.category_ids", [1, 2, 3, 4, 1], "line 11: 'category_ids' has 5 values and 'scores' has"),
        ("images.1.scores", ["high"], "line 11: 'scores' is ['high'], not a list of numbers"),
        ("images.1.scores", [float("nan")], "line 11: 'scores' is [nan]"),
        ("images.1.width", -1, "line 11: 'width' is -1, not a non-negative integer"),
        ("annotations.0.image_id", None, "line 22: an annotation needs the `image_id`"),
        ("annotations.0", 17, "line 22: an annotation needs the `image_id`"),
        ("annotations.0.region_id", 5, "line 22: 'region_id' is 5, not text"),
        ("annotations.0.segmentation", None, "line 22: has no 'segmentation'"),
        ("annotations.0.segmentation.counts", "0", "line 22: the segmentation has runs for 0 pixels"),
        ("annotations.0.segmentation.size", [1, 1], "line 22: the segmentation has size [1, 1]"),
        ("annotations.0.area", 1, "pixels, but its area is 1"),
        ("annotations.0.bbox", [0, 0, 1], "line 22: 'bbox' is [0, 0, 1], not a list of 4 numbers"),
        ("annotations.0.top_scores", [], "line 22: 'top_category_ids' has 3 values and 'top_scores' has 0"),
        ("annotations.0.score", "1", "line 22: 'score' is '1', not a number in [0, 1]"),
        ("annotations.0.score", 1.5, "line 22: 'score' is 1.5, not a number in [0, 1]"),
        ("annotations.0.score", 10**400, "line 22: 'score' is 1000"),
        ("annotations.0.bbox", [-1, 0, 5, 5], "line 22: 'bbox' is [-1.0, 0.0, 5.0, 5.0], but no number"),
        ("annotations.0.bbox", [0, 0, 10**400, 5], "line 22: 'bbox' is [0, 0, 1000"),
        ("annotations.0.bbox", [0, 0, 2**31, 5], "`regions.bbox` is"),
        ("annotations.0.area", 2**63, "line 22: 'area' is 9223372036854775808, not a non-negative integer up to"),
        ("annotations.0.category_id", True, "line 22: 'category_id' contains the category True"),
        ("annotations.0.segmentation", [[0, 0, 10**400, 5, 5, 5]], "line 22: the segmentation has a polygon"),
        ("annotations.0.top_scores", [0.1, 0.2, 7], "line 22: 'top_scores' is 7, not a number in [0, 1]"),
        ("annotations.0.generator", "\ud800", "line 22: not valid JSON (half of a character"),
        ("annotations", 5, "`annotations` must be a list"),
        ("images", {"id": 1}, "`images` must be a list"),
        ("images.1.id", True, "line 11: an image needs an `id`"),
        ("images.1.label_score", 1.5, "line 11: 'label_score' is 1.5, not a number in [0, 1]"),
        ("images.1.width", 2**31, "line 11: 'width' is 2147483648, not a non-negative integer up to"),
        ("excluded", 5, "`excluded` contains 5"),
        ("excluded.0.image_id", 5, "`excluded` contains {'image_id': 5"),
        ("info.hf_relabel.provenance", {"config": 5}, "provenance.config: must be an object"),
    ],
)
def test_what_is_damaged_is_told_with_its_line(tmp_path, path, value, reason):
    make_release(tmp_path / "release", images=10)
    export_coco(Release.open(tmp_path / "release"), tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    change(content, path, value)
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    blocks = [f'"{key}": {json.dumps(value)}' for key, value in content.items() if key not in lists]
    blocks += [f'"{key}": [\n' + ",\n".join(map(json.dumps, items)) + "\n]" for key, items in lists.items()]
    (tmp_path / "damaged.json").write_text("{\n" + ",\n".join(blocks) + "\n}\n")
    with pytest.raises(RelabelError) as caught:
        import_coco(tmp_path / "damaged.json", tmp_path / "back")
    assert reason in str(caught.value)
    is_of_rows = reason.startswith(("`regions", "provenance"))  # found by the writer's check of rows and manifest
    assert isinstance(caught.value, ReleaseError if is_of_rows else FormatError)
    assert is_of_rows or str(tmp_path / "damaged.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_places_that_are_taken(tmp_path):
    release = make_release(tmp_path / "release", images=3)
    export_coco(release, tmp_path / "coco.json")
    with pytest.raises(FormatError, match=r"already exists.*--overwrite"):
        export_coco(release, tmp_path / "coco.json")
    with pytest.raises(ReleaseError, match="already contains a release"):
        import_coco(tmp_path / "coco.json", tmp_path / "release")
    import_coco(tmp_path / "coco.json", tmp_path / "release", overwrite=True)
    with pytest.raises(UsageError, match="--version"):
        import_coco(tmp_path / "coco.json", tmp_path / "other", version="2")
    with pytest.raises(FormatError, match="cannot be read"):
        import_coco(tmp_path / "none.json", tmp_path / "other")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"annotations":', '"annotation":', "has no `annotations`"),
        ('"annotations":', '"annotations": [], "annotations":', "the key 'annotations' occurs twice"),
    ],
)
def test_regions_are_not_lost_with_their_list(tmp_path, old, new, reason):
    make_release(tmp_path / "release", images=3)
    export_coco(Release.open(tmp_path / "release"), tmp_path / "coco.json")
    (tmp_path / "coco.json").write_text((tmp_path / "coco.json").read_text().replace(old, new))
    with pytest.raises(FormatError, match=reason):
        import_coco(tmp_path / "coco.json", tmp_path / "back")


def test_a_release_without_its_list_of_images_left_out_is_not_exported_without_it(tmp_path):
    release = make_release(tmp_path / "release", images=3)
    (tmp_path / "release" / EXCLUDED).unlink()
    with pytest.raises(ReleaseError, match=r"excluded\.jsonl: cannot be read"):
        export_coco(release, tmp_path / "coco.json")
    os.mkfifo(tmp_path / "release" / EXCLUDED)
    with pytest.raises(ReleaseError, match="not a regular file"):
        export_coco(release, tmp_path / "coco.json")
    assert not (tmp_path / "coco.json").exists()


def test_rows_are_those_of_the_seed():
    """The literal lines and ids above rest on the generated rows."""
    rows = sorted(make_rows(10), key=lambda row: row["image_id"])
    assert rows[0]["image_id"] == "00/img_0000000.jpg"
    assert len(rows[0]["regions"]) > 0
