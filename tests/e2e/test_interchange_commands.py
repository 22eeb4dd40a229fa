"""`hf-relabel import` and `export` by the real commands: out of a run and back, and on from given masks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import config_of, hf_relabel
from pycocotools import mask as coco
from pycocotools.coco import COCO

from hf_relabel.cli import main


@pytest.fixture
def command(capsys):
    """Runs a command in this process, as starting another takes seconds; gives its status, output and error line."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("hf-relabel: error: ")]
        assert len(errors) == (status != 0)
        return status, printed.out, "".join(errors)

    return run_command


@pytest.fixture(scope="module")
def run(finished_run) -> Path:
    """A finished run with its `config.yaml`."""
    return finished_run[0]


@pytest.fixture(scope="module")
def coco_file(run, tmp_path_factory) -> Path:
    """The run's release as COCO JSON."""
    path = tmp_path_factory.mktemp("coco") / "coco.json"
    assert main(["export", "coco", str(run / "release"), str(path)]) == 0
    return path


def rows_of(folder: Path, config_name: str = "regions") -> list[dict]:
    return pq.read_table(folder / "data" / config_name).to_pylist()


@pytest.mark.slow
def test_coco_and_back(run, coco_file, tmp_path, command):
    status, output, _ = command("export", "coco", run / "release", tmp_path / "coco.json")
    rows = rows_of(run / "release")
    regions = sum(len(row["regions"]) for row in rows)
    counts = f"12 images, {sum(len(row['labels']) for row in rows)} labels, {regions} regions"
    assert status == 0
    assert counts in output
    assert "Exported: " in output
    assert "Not exported: " in output
    status, output, _ = command("import", "coco", tmp_path / "coco.json", tmp_path / "release")
    assert status == 0
    assert counts in output
    assert rows_of(tmp_path / "release") == rows
    loaded = COCO(coco_file)
    assert len(loaded.anns) == regions > 0
    for annotation in loaded.anns.values():
        mask = loaded.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        assert coco.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
    status, _, line = command("import", "coco", coco_file, tmp_path / "release")
    assert status == 1
    assert "already contains a release" in line


def test_tsv_and_back(run, image_folder, tmp_path, command):
    tsv, names, folder = tmp_path / "labels.tsv", tmp_path / "names.txt", tmp_path / "release"
    status, output, _ = command("export", "tsv", run / "release", tsv)
    assert status == 0
    assert "Not exported: label_score, masks and regions" in output
    names.write_text("".join(f"{path.name}\n" for path in sorted(image_folder.iterdir())))
    status, output, _ = command("import", "tsv", tsv, folder, "--class-names", names, "--version", "3.0.0")
    assert status == 0
    assert "width and height are 0" in output
    for before, after in zip(rows_of(run / "release"), rows_of(folder), strict=True):
        assert [after[key] for key in ("image_id", "label", "version")] == [
            before["image_id"],
            before["label"],
            "3.0.0",
        ]
        assert sorted(after["labels"]) == sorted(before["labels"])
        assert after["regions"] == []
    tsv.write_text(tsv.read_text() + "circle/new.png\t0\t0\n")
    status, _, line = command("import", "tsv", tsv, tmp_path / "other", "--class-names", names)
    assert status == 1
    assert f"{tsv}, line 13: has 3 columns instead of 4" in line


def test_fiftyone_folder(run, image_folder, tmp_path, command):
    folder = tmp_path / "folder"
    status, output, _ = command("export", "fiftyone", run / "release", folder, "--images", image_folder)
    assert status == 0
    places = f"data_path={str(folder / 'data')!r}, labels_path={str(folder / 'labels.json')!r}"
    assert f"COCODetectionDataset, {places}" in output
    names = {image["file_name"] for image in json.loads((folder / "labels.json").read_text())["images"]}
    assert names == {path.relative_to(folder / "data").as_posix() for path in (folder / "data").rglob("*.png")}
    status, output, _ = command("export", "fiftyone", run / "release", tmp_path / "labels")
    assert status == 0
    assert f"labels_path={str(tmp_path / 'labels' / 'labels.json')!r}" in output
    status, _, line = command("export", "fiftyone", run / "release", tmp_path / "x", "--copy")
    assert status == 2
    assert "--images" in line


@pytest.mark.slow
def test_given_masks_continue_the_run_they_came_from(image_folder, tiny_dinov3, tmp_path):
    """MaskCut's masks of a run, taken from a file, make the features and the release of that run again."""
    build = {"region_score": 0.0, "threshold": 1.0, "include_original": False}  # each proposal is a region
    config = config_of(tmp_path, image_folder, tiny_dinov3, propose={"generators": ["maskcut"]}, build=build)
    run, again, file = tmp_path / "run", tmp_path / "again", tmp_path / "coco.json"
    assert hf_relabel("run", "--config", config, "--run.dir", str(run)).returncode == 0
    assert main(["export", "coco", str(run / "release"), str(file)]) == 0
    done = hf_relabel("propose", "--propose.masks", str(file), "--config", config, "--run.dir", str(again))
    assert done.returncode == 0, done.stderr
    for name in ("shard-00000", "shard-00002"):
        before, after = (pq.read_table(folder / "proposals" / f"{name}.parquet") for folder in (run, again))
        for a, b in zip(before.to_pylist(), after.to_pylist(), strict=True):
            assert a | {"proposals": 0} == b | {"proposals": 0}
            same = ("proposal_id", "feature_row", "views", "patches", "grid_mask")
            assert [[p[key] for key in same] for p in a["proposals"]] == [
                [p[key] for key in same] for p in b["proposals"]
            ]
            assert {proposal["generator"] for proposal in b["proposals"]} == {"file"}
        before, after = (np.load(folder / "proposals" / f"{name}.npy") for folder in (run, again))
        np.testing.assert_array_equal(after, before)
    inputs = json.loads((again / "proposals" / "manifest.json").read_text())["inputs"]
    assert inputs["propose"]["masks"]["file"] == "coco.json"
    assert set(inputs["propose"]) == {
        "masks",
        "masks_orientation",
        "windows",
        "views",
        "view_drop",
    }  # not what generates masks

    done = hf_relabel("run", "--config", str(again / "config.yaml"))
    assert done.returncode == 0, done.stderr
    for a, b in zip(rows_of(run / "release"), rows_of(again / "release"), strict=True):
        assert a | {"regions": [region | {"generator": "file"} for region in a["regions"]]} == b
    provenance = json.loads((again / "release" / "manifest.json").read_text())["provenance"]
    assert provenance["config"]["propose"] == inputs["propose"]
    assert str(tmp_path) not in json.dumps(provenance)


def test_masks_as_cutler_writes_them(image_folder, tiny_dinov3, tmp_path, monkeypatch, command, caplog):
    """Run lengths, a polygon, a mask twice, an image from another source, and a mask of another size than its image."""
    square = np.zeros((80, 96), np.uint8)
    square[10:50, 12:60] = 1
    packed = coco.encode(np.asfortranarray(square))
    segmentations = [
        {"size": [80, 96], "counts": packed["counts"].decode()},
        [[12, 10, 60, 10, 60, 50, 12, 50]],
        {"size": [80, 96], "counts": packed["counts"].decode()},
        {"size": [96, 80], "counts": packed["counts"].decode()},
    ]
    names = ["circle/circle_0.png", "square/square_0.png", "cow/cow_0.png", "triangle/triangle_0.png"]
    content = {
        "categories": [{"id": 1, "name": "fg"}],
        "images": [{"id": k, "file_name": name, "width": 96, "height": 80} for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
            for k, segmentation in enumerate(segmentations)
        ],
    }
    content["annotations"].append(content["annotations"][0] | {"id": 4})
    file = tmp_path / "maskcut.json"
    file.write_text(json.dumps(content))
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")  # the command sets it; here it is put back afterwards
    settings = ["--config", config, "--run.dir", tmp_path / "run", "--run.max_error_rate", "0.5"]
    status, output, _ = command("propose", "--propose.masks", file, *settings)
    assert status == 0
    assert re.search(r"dropped +unreadable images +1\n", output)
    assert re.search(r"dropped +mask occurs twice +1\n", output)
    assert "1 images are not in the source, with 1 masks (such as 'cow/cow_0.png')" in caplog.text
    assert "9 of the source's 12 images have no mask (such as 'circle/circle_1.png')" in caplog.text
    shards = (tmp_path / "run" / "proposals").glob("*.parquet")
    rows = [row for path in shards for row in pq.read_table(path).to_pylist()]
    found = {row["image_id"]: row for row in rows if row["proposals"] or row["error"]}
    for name in names[:2]:
        (proposal,) = found[name]["proposals"]
        assert (proposal["generator"], proposal["views"]) == ("file", 2)
        np.testing.assert_array_equal(coco.decode(proposal["segmentation"]), square)
    assert "has size [96, 80], but the image has [80, 96]" in found[names[3]]["error"]


def test_label_maps(tmp_path, command):
    for wnid, logits in (("n01440764", [9.0, 8.0, 0, 0, 0]), ("n01443537", [0, 9.0, 0, 0, 0])):
        label_map = torch.zeros(2, 5, 15, 15)
        label_map[0], label_map[1] = torch.tensor(logits)[:, None, None], torch.arange(5)[:, None, None]
        path = tmp_path / "maps" / wnid / f"{wnid}_1.pt"
        path.parent.mkdir(parents=True)
        torch.save(label_map, path)
    shutil.copy(path, path.with_name("broken.pt"))
    path.with_name("broken.pt").write_bytes(b"")
    folder = tmp_path / "release"
    status, output, _ = command("import", "relabel", tmp_path / "maps", folder, "--threshold", "0.2")
    assert status == 0
    assert "2 images, 3 labels" in output
    assert "left out: 1 images: unreadable label map" in output
    rows = rows_of(folder, "labels")
    assert [(row["image_id"], row["label"], row["labels"]) for row in rows] == [
        ("n01440764/n01440764_1.JPEG", 0, [0, 1]),
        ("n01443537/n01443537_1.JPEG", 1, [1]),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected", "reason"),
    [
        (["import", "relabel", "no", "release"], 1, "no: no such folder"),
        (["import", "coco", "no.json", "release"], 1, "no.json: cannot be read"),
        (["import", "proposals", "no.json"], 2, "no format 'proposals'"),
        (["import", "tsv", "labels.tsv"], 2, "RELEASE is missing"),
        (["import", "tsv", "labels.tsv", "release", "--version", "new"], 2, "--version: must be three numbers"),
        (["export", "coco", "no", "a.json"], 1, "no: not a release"),
    ],
)
def test_misuse_is_one_line(tmp_path, monkeypatch, command, arguments, expected, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.tsv").write_text("a/1.jpg\t0\t0\t1.0\n")
    status, _, line = command(*arguments)
    assert status == expected
    assert reason in line
    assert not (tmp_path / "release").exists()


def test_unknown_and_missing_formats(capsys):
    assert main(["export", "xml", "a", "b"]) == 2
    assert main(["import"]) == 2
    assert "usage: hf-relabel import" in capsys.readouterr().err
