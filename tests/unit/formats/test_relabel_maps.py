"""ReLabel's label maps as a release: the labels by the formula, and unreadable maps left out with their reason."""

import json
import math

import pyarrow.parquet as pq
import pytest
import torch

from hf_relabel.errors import FormatError, SourceError, UsageError
from hf_relabel.formats.relabel_maps import import_label_maps
from hf_relabel.formats.releases import Names
from hf_relabel.release.reader import Release

NAMES = Names("1.0.0", "Maps", "train")


def write_map(path, logits: dict[int, float]) -> None:
    """A map with the given classes and logits in each grid cell; other classes have logit 0."""
    others = [label for label in range(999, 0, -1) if label not in logits]
    label_map = torch.zeros(2, 5, 15, 15)
    for place, (label, logit) in enumerate([*logits.items(), *((label, 0.0) for label in others)][:5]):
        label_map[0, place], label_map[1, place] = logit, label
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(label_map, path)


def test_labels_are_the_softmax_of_the_mean_logits(tmp_path):
    maps = tmp_path / "maps"
    write_map(maps / "n01440764" / "n01440764_10042.pt", {0: 9.0, 391: 8.0, 5: 1.0})
    half = torch.zeros(2, 5, 15, 15)
    half[1] = torch.arange(5)[:, None, None]
    half[0, 2, :, :7] = 15.0  # 7 of 15 columns: a mean logit of 7
    (maps / "n01443537").mkdir()
    torch.save(half.half(), maps / "n01443537" / "n01443537_2.pt")
    imported = import_label_maps(maps, tmp_path / "release", names=NAMES)
    assert imported.facts == {"images": 2, "labels": 3}
    assert not any(imported.left_out.values())
    rows = pq.read_table(tmp_path / "release" / "data" / "regions").to_pylist()
    total = math.exp(9) + math.exp(8) + math.exp(1) + 997
    assert rows[0]["image_id"] == "n01440764/n01440764_10042.JPEG"
    assert (rows[0]["label"], rows[0]["labels"]) == (0, [0, 391])
    assert rows[0]["scores"] == pytest.approx([math.exp(9) / total, math.exp(8) / total], rel=1e-5)
    assert (rows[0]["width"], rows[0]["height"], rows[0]["regions"]) == (0, 0, [])
    assert (rows[1]["label"], rows[1]["labels"]) == (1, [2])
    assert rows[1]["scores"] == pytest.approx([math.exp(7) / (math.exp(7) + 999)], rel=1e-5)
    settings = Release.open(tmp_path / "release").provenance["config"]["import"]
    assert (settings["format"], settings["threshold"], settings["top_k"], settings["folder"]) == (
        "relabel",
        0.1,
        5,
        "maps",
    )


def test_threshold_top_k_classes_and_suffix(tmp_path):
    maps = tmp_path / "maps"
    write_map(maps / "cats" / "1.pt", {1: 8.0, 2: 7.9, 0: 7.8})
    (tmp_path / "names.tsv").write_text(
        "dogs\tdog\ncats\tcat\nbirds\tbird\n" + "".join(f"{k}\tc{k}\n" for k in range(997))
    )
    common = {"names": NAMES, "class_names": str(tmp_path / "names.tsv"), "image_suffix": ".png", "overwrite": True}
    for settings, labels in (
        ({}, [1, 2, 0]),
        ({"top_k": 2}, [1, 2]),
        ({"threshold": 0.28}, [1, 2]),
        ({"threshold": 0.9}, []),
    ):
        import_label_maps(maps, tmp_path / "release", **common, **settings)
        (row,) = pq.read_table(tmp_path / "release" / "data" / "labels").to_pylist()
        assert (row["image_id"], row["label"], row["labels"]) == ("cats/1.png", 1, labels)


def test_an_unreadable_map_leaves_its_image_out_with_the_reason(tmp_path):
    maps = tmp_path / "maps"
    write_map(maps / "n01440764" / "a.pt", {0: 9.0})
    (maps / "n01440764" / "b.pt").write_bytes(b"junk")
    torch.save(torch.zeros(3), maps / "n01440764" / "c.pt")
    write_map(maps / "n01440764" / "d.pt", {1000: 9.0})
    (maps / "n01440764" / "notes.txt").touch()
    (maps / "stray.pt").touch()
    imported = import_label_maps(maps, tmp_path / "release", names=NAMES)
    assert imported.facts["images"] == 1
    (unreadable,) = (reason for reason in imported.left_out if "unreadable" in reason)
    assert imported.left_out == {
        unreadable: 1,
        "images: label map is (3,), expected a tensor [2, 5, 15, 15]": 1,
        "images: label map has class index 1000, but there are only 1000 classes": 1,
        "files other than <class folder>/<name>.pt": 2,
    }
    excluded = [json.loads(line) for line in (tmp_path / "release" / "excluded.jsonl").read_text().splitlines()]
    assert [item["image_id"] for item in excluded] == [f"n01440764/{name}.JPEG" for name in "bcd"]


def test_what_is_refused(tmp_path):
    maps = tmp_path / "maps"
    with pytest.raises(FormatError, match="no such folder"):
        import_label_maps(maps, tmp_path / "release", names=NAMES)
    maps.mkdir()
    with pytest.raises(FormatError, match="contains no label maps"):
        import_label_maps(maps, tmp_path / "release", names=NAMES)
    (maps / "n01440764").mkdir()
    (maps / "n01440764" / "a.pt").write_bytes(b"junk")
    with pytest.raises(FormatError, match="none of its 1 label maps can be read: unreadable label map"):
        import_label_maps(maps, tmp_path / "release", names=NAMES)
    assert not (tmp_path / "release").exists()
    with pytest.raises(UsageError, match="--threshold: must be from 0 to 1, got 2"):
        import_label_maps(maps, tmp_path / "release", names=NAMES, threshold=2)
    with pytest.raises(UsageError, match="--top-k"):
        import_label_maps(maps, tmp_path / "release", names=NAMES, top_k=0)
    (maps / "zebras").mkdir()
    (maps / "zebras" / "a.pt").touch()
    with pytest.raises(SourceError, match="the class 'zebras'"):
        import_label_maps(maps, tmp_path / "release", names=NAMES)
