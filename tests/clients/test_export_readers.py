"""Every export is opened by the tool it is for, which sees the same regions, classes and scores.

The tools are installed apart from the project (scripts/readers.txt); without them, these tests are skipped.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from releases import make_release

from hf_relabel.formats.coco_export import export_coco
from hf_relabel.formats.fiftyone_folder import export_fiftyone
from hf_relabel.formats.label_studio import export_label_studio
from hf_relabel.formats.yolo_folder import export_yolo
from hf_relabel.release.reader import Release
from hf_relabel.vision import masks

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("HF_RELABEL_READERS", REPOSITORY / ".cache/readers")) / "bin/python"

needs_readers = pytest.mark.skipif(not PYTHON.exists(), reason="the readers of scripts/readers.txt are not installed")


def blob(generator: np.random.Generator, size: int) -> np.ndarray:
    """A mask like those of real objects: an ellipse with a hole and a second part, bool [size, size]."""
    y, x = np.mgrid[:size, :size]
    cy, cx = generator.integers(25, size - 25, 2)
    distance = np.hypot((y - cy) / generator.uniform(0.7, 1.4), x - cx)
    mask = (distance < 20) & (distance >= 5)
    mask[2:8, 2:9] = True
    return mask


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Six images with two regions each and one without, in `images`, beside the release."""
    generator, folder, rows = np.random.default_rng(0), tmp_path_factory.mktemp("release"), []
    for number in range(7):
        image_id, regions = f"{number % 2:02d}/img_{number}.jpg", []
        for place in range(2 if number else 0):
            mask = blob(generator, 96)
            label, score = int(generator.integers(4)), float(np.float32(generator.uniform(0.3, 0.9)))
            regions.append(
                {
                    "region_id": f"{image_id}#{place}", "label": label, "score": score, "top_labels": [label],
                    "top_scores": [score], "bbox": masks.bbox(mask), "area": masks.area(mask), "generator": "merge",
                    "segmentation": masks.encode(mask),
                }
            )  # fmt: skip
        labels = list(dict.fromkeys([0, *(region["label"] for region in regions)]))
        scores = [1.0, 0.75, 0.5][: len(labels)]
        row = {"image_id": image_id, "label": 0, "labels": labels, "scores": scores, "label_score": 0.5}
        rows.append(row | {"width": 96, "height": 96, "regions": regions})
        path = folder / "images" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 96), "navy").save(path)
    return make_release(folder / "release", rows=rows, class_names=["cat", "dog", 'the "red" ball & <co>', "tree"])


@pytest.fixture
def read() -> Callable[[str, Path], list[dict]]:
    """What a tool understands of an export."""

    def run(reader: str, path: Path) -> list[dict]:
        script = REPOSITORY / "tests/helpers/export_readers.py"
        done = subprocess.run(
            [PYTHON, script, reader, path], capture_output=True, text=True, timeout=200, check=False, cwd=path,
            env={"PATH": os.environ["PATH"], "HOME": str(path), "FIFTYONE_DO_NOT_TRACK": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.split("ANSWER ")[1])

    return run


def assert_same(release: Release, found: list[dict], *, area: float, scores: bool = False, flat: bool = False) -> None:
    """The regions are the release's: names exactly, areas to a share, scores if the tool reads them."""
    by_image = {item["image"]: item["regions"] for item in found}
    count = 0
    for row in release.rows("regions"):
        name = row["image_id"].replace("/", "__") if flat else row["image_id"]
        regions = by_image.pop(name, [] if not row["regions"] else None)
        assert regions is not None, (name, list(by_image))
        wanted = sorted(row["regions"], key=lambda region: (release.class_names[region["label"]], region["area"]))
        regions.sort(key=lambda region: (region["name"], region["area"]))
        assert [region["name"] for region in regions] == [release.class_names[region["label"]] for region in wanted]
        for seen, region in zip(regions, wanted, strict=True):
            assert seen["area"] == pytest.approx(region["area"], rel=area, abs=0)
            if scores:
                assert seen["score"] == pytest.approx(region["score"], rel=1e-6)
            if seen["probability"] is not None:
                probability = row["scores"][row["labels"].index(region["label"])]
                assert seen["probability"] == pytest.approx(probability, abs=1e-4)
            count += 1
    assert count == 12
    assert not by_image


@pytest.mark.parametrize("form", ["rle", "uncompressed-rle", "polygons"])
def test_pycocotools_and_its_demo(release, tmp_path, form):
    export_coco(release, tmp_path / "coco.json", masks=form)
    coco = COCO(tmp_path / "coco.json")
    assert {category["supercategory"] for category in coco.loadCats(coco.getCatIds())} == {"object"}  # as in its demo
    found = [
        {
            "image": image["file_name"],
            "regions": [
                {
                    "name": coco.cats[annotation["category_id"]]["name"], "area": coco.annToMask(annotation).sum(),
                    "score": annotation["score"], "probability": annotation["label_probability"],
                }
                for annotation in coco.imgToAnns[image["id"]]
            ],
        }
        for image in coco.imgs.values()
    ]  # fmt: skip
    assert_same(release, found, area=0, scores=True)
    if form == "uncompressed-rle":
        for annotation in coco.anns.values():
            counts = json.loads((tmp_path / "coco.json").read_text())["annotations"][annotation["id"] - 1]
            assert sum(counts["segmentation"]["counts"]) == 96 * 96, "CVAT fails on runs for another number of pixels"
            assert 0 not in counts["segmentation"]["counts"][1:]


@needs_readers
@pytest.mark.slow
@pytest.mark.parametrize(("form", "area"), [("rle", 0), ("uncompressed-rle", 0), ("polygons", 0.2)])
def test_supervision_reads_coco(release, read, tmp_path, form, area):
    # supervision refuses links that lead out of the folder.
    export_fiftyone(release, tmp_path / "out", images=release.folder.parent / "images", copy=True, masks=form)
    assert_same(release, read("supervision_coco", tmp_path / "out"), area=area)


@needs_readers
@pytest.mark.slow
def test_supervision_reads_yolo(release, read, tmp_path):
    export_yolo(release, tmp_path / "out", images=release.folder.parent / "images", copy=True)
    assert_same(release, read("supervision_yolo", tmp_path / "out"), area=0.2, flat=True)


@needs_readers
@pytest.mark.slow
@pytest.mark.parametrize(("form", "area"), [("rle", 0), ("uncompressed-rle", 0), ("polygons", 0.01)])
def test_datumaro_reads_coco(release, read, tmp_path, form, area):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/train").symlink_to(release.folder.parent / "images")
    export_coco(release, tmp_path / "annotations/instances_train.json", masks=form)
    assert_same(release, read("datumaro_coco", tmp_path), area=area, scores=True)


@needs_readers
@pytest.mark.slow
@pytest.mark.parametrize("form", ["rle", "polygons"])
def test_fiftyone_reads_its_folder(release, read, tmp_path, form):
    export_fiftyone(release, tmp_path / "out", images=release.folder.parent / "images", masks=form)
    assert_same(release, read("fiftyone_folder", tmp_path / "out"), area=0.0, scores=True)


@needs_readers
@pytest.mark.slow
def test_fiftyone_reads_the_labels_of_images(release, read, tmp_path):
    export_fiftyone(release, tmp_path / "out", images=release.folder.parent / "images")
    names = release.class_names
    assert {each["image"]: each["labels"] for each in read("fiftyone_image_labels", tmp_path / "out")} == {
        row["image_id"]: [[names[label], score] for label, score in zip(row["labels"], row["scores"], strict=True)]
        for row in release.rows("labels")
    }


@needs_readers
@pytest.mark.slow
@pytest.mark.parametrize(("form", "area"), [("brush", 0), ("polygons", 0.15)])
def test_label_studio_accepts_the_tasks(release, read, tmp_path, form, area):
    export_label_studio(release, tmp_path / "out", image_root="/data/local-files/?d=", masks=form)
    assert_same(release, read("label_studio", tmp_path / "out"), area=area)


@needs_readers
@pytest.mark.slow
def test_label_studios_converter_makes_the_same_masks(release, read, tmp_path):
    export_label_studio(release, tmp_path / "out", image_root="/data/local-files/?d=")
    assert_same(release, read("label_studio_converter", tmp_path / "out"), area=0)
