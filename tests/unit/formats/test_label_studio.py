"""Label Studio's tasks: masks to the pixel, names escaped, scores of labels and regions."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from releases import make_release

from hf_relabel.formats.label_studio import brush_rle, export_label_studio, label_config
from hf_relabel.vision import masks


def decoded(data: list[int]) -> np.ndarray:
    """Decode rle-pack as its JavaScript source does: bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    number, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        is_run, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if is_run else [take(word) for _ in range(length)]
    assert len(bits) - place < 8
    return np.array(values)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (300, 400)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_brush_masks_are_exact(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    values = decoded(brush_rle(masks.encode(mask))).reshape(*shape, 4)
    assert np.array_equal(values == 255, np.repeat(mask[..., None], 4, axis=2))


def test_names_are_escaped():
    names = ['a "b" <c> & d', "it's", "é"]
    for kind in ("brush", "polygons"):
        root = ElementTree.fromstring(label_config(names, kind))
        assert [element.get("value") for element in root.iter("Label")] == names
        assert [element.get("value") for element in root.iter("Choice")] == names


@pytest.mark.parametrize("kind", ["brush", "polygons"])
def test_every_region_and_label_is_there_with_its_score(tmp_path, kind):
    release = make_release(tmp_path / "release", images=12)
    export_label_studio(release, tmp_path / "tasks", image_root="https://example.org/?d=", masks=kind)
    tasks = json.loads((tmp_path / "tasks/tasks.json").read_text())
    for task, row in zip(tasks, release.rows("regions"), strict=True):
        names = [release.class_names[label] for label in row["labels"]]
        assert task["data"]["image"] == f"https://example.org/?d={row['image_id']}"
        assert task["data"]["label_scores"] == pytest.approx(dict(zip(names, row["scores"], strict=True)), abs=1e-4)
        [prediction] = task["predictions"]
        choices, *regions = prediction["result"]
        assert choices["value"]["choices"] == names
        scores = dict(zip(row["labels"], row["scores"], strict=True))
        assert {result["id"].split("-")[0] for result in regions} == {f"region{n}" for n in range(len(row["regions"]))}
        for result in regions:
            region = row["regions"][int(result["id"].split("-")[0].removeprefix("region"))]
            assert result["value"][result["type"]] == [release.class_names[region["label"]]]
            assert result["score"] == pytest.approx(scores.get(region["label"], region["score"]), abs=1e-4)
