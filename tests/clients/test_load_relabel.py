"""The published loader script, with the installed datasets library and the test server."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from hub_environment import TIMEOUT, environment
from odd_files import write_odd_files
from PIL import Image
from pycocotools import mask as coco
from releases import CLASSES, as_version_1, make_release, make_rows

from hf_relabel.config import SourceConfig
from hf_relabel.sources.source import open_source, source_of_dataset

SCRIPT = Path(__file__).resolve().parents[2] / "dataset_card" / "load_relabel.py"


@pytest.fixture(scope="module")
def loader():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("load_relabel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The images of the tiny releases: each in one color that depends on its number."""
    folder = tmp_path_factory.mktemp("images")
    for row in make_rows(60):
        path = folder / row["image_id"]
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (row["width"], row["height"]), color_of(row["image_id"])).save(path, quality=95)
    return folder


def color_of(image_id):
    """The color of an image, by its number."""
    number = int(image_id[-6:-4])
    return (number * 4, 255 - number * 4, 100)


def is_image(image, row):
    """Whether a picture is that of a row."""
    close = np.abs(np.array(image, float).mean(axis=(0, 1)) - color_of(row["image_id"])).max() < 3
    return close and (not row.get("width") or image.size == (row["width"], row["height"]))


# Masks


def random_masks():
    """Blobs, noise, stripes, empty and full masks of many sizes."""
    rng = np.random.default_rng(0)
    for size in [(1, 1), (1, 50), (50, 1), (7, 13), (240, 320), (500, 333)]:
        yield np.zeros(size, bool)
        yield np.ones(size, bool)
        for density in (0.01, 0.5, 0.99):
            yield rng.random(size) < density
        rows, columns = np.ogrid[: size[0], : size[1]]
        yield (rows - size[0] / 2) ** 2 + (columns - size[1] / 3) ** 2 < (min(size) / 3) ** 2
        yield np.broadcast_to(columns % 7 < 3, size)
        yield np.broadcast_to(rows % 100 < 99, size)


def test_masks_are_those_of_pycocotools(loader):
    for mask in random_masks():
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        expected = coco.decode(encoded).astype(bool)
        for counts in (encoded["counts"], encoded["counts"].decode()):
            found = loader.decode_rle({"size": encoded["size"], "counts": counts})
            assert found.dtype == bool
            assert np.array_equal(found, expected)


def test_masks_of_a_release(loader, v1):
    checked = 0
    for batch in v1.batches("regions", ["regions"]):
        for row in batch.to_pylist():
            for region in row["regions"]:
                mask = loader.decode_rle(region["segmentation"])
                assert np.array_equal(mask, coco.decode(region["segmentation"]))
                assert mask.sum() == region["area"]
                checked += 1
    assert checked == v1.statistics["regions"] > 50


def test_a_mask_cut_short(loader):
    encoded = coco.encode(np.asfortranarray(np.eye(20, dtype=np.uint8)))
    with pytest.raises(ValueError, match="20 x 20"):
        loader.decode_rle({"size": [20, 20], "counts": encoded["counts"].decode()[:-3]})


# Rows


def test_both_configurations_of_a_folder(loader, v1):
    labels = loader.load_relabel(str(v1.folder), "1.0.0")
    assert list(labels) == [row for batch in v1.batches("labels") for row in batch.to_pylist()]
    regions = loader.load_relabel(str(v1.folder), "v1.0.0", "regions", streaming=True)
    assert list(regions) == [row for batch in v1.batches("regions") for row in batch.to_pylist()]
    assert loader.class_names(regions) == CLASSES
    assert loader.load_relabel(str(v1.folder), columns=["labels"]).column_names == ["labels"]


def test_a_release_of_schema_version_1(loader, tmp_path):
    """The columns that it lacks are just not there."""
    make_release(tmp_path / "release", images=8)
    old = as_version_1(tmp_path / "release")
    labels = loader.load_relabel(str(old.folder), "1.0.0")
    assert labels.column_names == ["image_id", "label", "labels", "scores", "version"]
    regions = loader.load_relabel(str(old.folder), "1.0.0", "regions")
    assert "generator" not in next(row["regions"][0] for row in regions if row["regions"])
    assert loader.main([str(old.folder), "1.0.0", "--config", "regions"]) == 0


def test_two_runs_give_their_own_rows(tmp_path):
    """`datasets` identifies a local folder by its name and its card's patterns, not by its content."""
    runs = [
        make_release(tmp_path / run / "release", threshold=threshold) for run, threshold in (("A", 0.5), ("B", 0.9))
    ]
    for config_name in ("labels", "regions"):
        for release in (*runs, runs[0]):
            rows = list(datasets.load_dataset(str(release.folder), config_name, split="train"))
            assert rows == list(release.rows(config_name))


def test_a_release_that_was_built_again_gives_its_new_rows(tmp_path):
    for threshold in (0.5, 0.9):
        release = make_release(tmp_path / "release", threshold=threshold, overwrite=True)
        assert list(datasets.load_dataset(str(release.folder), split="train")) == list(release.rows("labels"))


@pytest.mark.parametrize("streaming", [False, True])
def test_another_version_is_refused(loader, v1, streaming):
    with pytest.raises(loader.VersionError, match=r"asked for version 1\.1\.0, got rows of 1\.0\.0"):
        loader.load_relabel(str(v1.folder), "1.1.0", streaming=streaming)


def test_several_splits_need_a_choice(loader, tmp_path):
    release = make_release(tmp_path / "release", images=5)
    readme = (release.folder / "README.md").read_text()
    (entry,) = re.findall(r"  - split: train\n    path: data/labels/.*\n", readme)
    (release.folder / "README.md").write_text(readme.replace(entry, entry + entry.replace("split: train", "split: b")))
    with pytest.raises(ValueError, match="splits train, b"):
        loader.load_relabel(str(release.folder), "1.0.0")
    assert len(loader.load_relabel(str(release.folder), "1.0.0", split="b")) == 5


def test_a_release_without_labels(loader, tmp_path):
    rows = [{**row, "labels": [], "scores": [], "regions": []} for row in make_rows(5)]
    release = make_release(tmp_path / "release", rows=rows)
    for config_name in ("labels", "regions"):
        data = loader.load_relabel(str(release.folder), "1.0.0", config_name)
        assert data["labels"][:] == [[]] * 5
        assert data.features["labels"].feature.names == CLASSES


# Targets and images


def test_targets(loader):
    assert loader.multi_hot([2, 0], 4).tolist() == [1, 0, 1, 0]
    assert loader.soft([2, 0], [0.5, 0.25], 4).tolist() == [0.25, 0, 0.5, 0]
    assert loader.multi_hot([], 3).tolist() == [0, 0, 0]
    assert loader.soft([], [], 2).dtype == np.float32


def test_training_on_a_folder(loader, v1, images):
    import torch

    labels = loader.load_relabel(str(v1.folder), "1.0.0")
    train = loader.TrainingDataset(labels, images, target="soft", threshold=0.6, transform=np.asarray)
    assert isinstance(train, torch.utils.data.Dataset)
    assert len(train) == 60
    for index in (0, 31, 59):
        pixels, target = train[index]
        row = labels[index]
        assert is_image(pixels, row)
        expected = {label: score for label, score in zip(row["labels"], row["scores"], strict=True) if score >= 0.6}
        assert {label: target[label].item() for label in target.nonzero().flatten().tolist()} == pytest.approx(expected)
    hot = loader.TrainingDataset(labels, images)
    batches = torch.utils.data.DataLoader(hot, batch_size=60, collate_fn=lambda rows: [target for _, target in rows])
    counts = torch.stack(next(iter(batches))).sum(dim=0)
    assert counts.tolist() == v1.statistics["labels_per_class"]
    own = loader.TrainingDataset(labels, images, target=lambda row: row["label"])
    assert own[3][1] == labels[3]["label"]


@pytest.mark.parametrize("stored", ["relative", "absolute", "inside"])
def test_images_of_a_dataset(loader, v1, images, stored):
    labels = loader.load_relabel(str(v1.folder), "1.0.0", "regions")
    names = [row["image_id"] for row in labels]
    order = np.random.default_rng(0).permutation(len(names))
    cells = []
    for place in order:
        path = images / names[place]
        name = {
            "relative": names[place],
            "absolute": f"/old/place/{names[place]}",
            "inside": f"zip://{names[place]}::/a.zip",
        }
        cells.append({"bytes": path.read_bytes(), "path": name[stored]})
    source = datasets.Dataset.from_dict({"image": cells}).cast_column("image", datasets.Image())
    train = loader.TrainingDataset(labels, source)
    for index in (0, 17, 59):
        assert is_image(train[index][0], labels[index])
    for row in loader.joined(labels, source):
        assert is_image(row["image"], row)


def test_images_of_a_dataset_by_column_and_by_row(loader, tmp_path, images):
    rows = list(make_rows(20))
    cells = [{"bytes": (images / row["image_id"]).read_bytes(), "path": None} for row in rows]
    source = datasets.Dataset.from_dict({"image": cells, "name": [row["image_id"] for row in rows]})
    source = source.cast_column("image", datasets.Image())
    by_column = make_release(tmp_path / "a", rows=rows)
    labels = loader.load_relabel(str(by_column.folder), "1.0.0")
    train = loader.TrainingDataset(labels, source, id_column="name")
    assert all(is_image(train[index][0], labels[index]) for index in range(20))
    by_row = make_release(tmp_path / "b", rows=[{**row, "image_id": f"train/{i:08d}"} for i, row in enumerate(rows)])
    regions = loader.load_relabel(str(by_row.folder), "1.0.0", "regions")
    opened = loader.open_images(source)
    assert all(is_image(opened[f"train/{i:08d}"], row) for i, row in enumerate(rows))
    assert opened.missing(["train/00000019", "train/00000020", "x"]) == ["train/00000020", "x"]
    assert len(loader.TrainingDataset(regions, source)) == 20


def test_an_image_turned_by_exif_is_upright(loader, tmp_path):
    picture = Image.new("RGB", (30, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert loader.open_images(tmp_path)["a.jpg"].size == (20, 30)


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "a"
    folder.mkdir()
    write_odd_files(folder)
    return folder.parent


@pytest.mark.parametrize("stored", ["folder", "dataset"])
def test_odd_files_have_the_pixels_that_were_relabeled(loader, odd_files, stored):
    source = open_source(SourceConfig(path=str(odd_files)))
    assert len(source) > 45
    images = odd_files
    if stored == "dataset":
        cells = [{"bytes": (odd_files / name).read_bytes(), "path": name} for name in source.image_ids]
        images = datasets.Dataset.from_dict({"image": cells}).cast_column("image", datasets.Image())
    opened = loader.open_images(images)
    for place, name in enumerate(source.image_ids):
        expected = source.load(place).image
        assert opened[name].size == expected.size, name
        assert np.array_equal(np.asarray(opened[name]), np.asarray(expected)), name


def test_file_names_that_occur_twice(loader, images):
    paths = sorted(images.rglob("*.jpg"))[:4]
    cells = [{"bytes": path.read_bytes(), "path": f"{place % 2}.jpg"} for place, path in enumerate(paths)]
    source = datasets.Dataset.from_dict({"image": cells, "label": ["a", "b", "a", "b"]})
    source = source.cast_column("image", datasets.Image())
    listed = source_of_dataset(source, SourceConfig(kind="dataset", path="photos"))
    opened = loader.open_images(source)
    for place, image_id in enumerate(listed.image_ids):
        assert image_id == f"train/{place:08d}"
        assert np.array_equal(np.asarray(opened[image_id]), np.asarray(listed.load(place).image))


@pytest.mark.parametrize("image_id", ["../outside.jpg", "/etc/hostname", "a/../../outside.jpg"])
def test_ids_that_lead_out_of_the_folder(loader, tmp_path, image_id):
    (tmp_path / "images").mkdir()
    (tmp_path / "outside.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="leads out of"):
        loader.open_images(tmp_path / "images")[image_id]


def test_misuse(loader, v1, images, tmp_path):
    labels = loader.load_relabel(str(v1.folder), "1.0.0")
    with pytest.raises(FileNotFoundError, match="do not match the labels"):
        loader.TrainingDataset(labels, tmp_path)
    with pytest.raises(FileNotFoundError, match="no such image folder"):
        loader.TrainingDataset(labels, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="multi_hot"):
        loader.TrainingDataset(labels, images, target="hot")
    with pytest.raises(TypeError, match="stream"):
        loader.TrainingDataset(loader.load_relabel(str(v1.folder), streaming=True), images)


# As users get it


def python(code, *arguments, env, cwd):
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.slow
def test_from_the_hub_as_its_card_says(hub, hf_relabel, repo_id, v1, v2, images, tmp_path):
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    card = hub.repo(repo_id).read("v1.0.0", "README.md").decode()
    blocks = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == 5
    code = "\n".join(blocks).replace("path/to/the/images", str(images))
    code += "\nimport json\nprint(json.dumps([len(labels), len(regions), len(list(stream)), len(train), labels[5]]))"
    done = python(code, env=environment(hub, tmp_path / "home", PYTHONPATH=str(tmp_path)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = next(v1.batches("labels")).to_pylist()[5]
    assert json.loads(done.stdout.splitlines()[-1]) == [60, 60, 60, 60, expected]


@pytest.mark.slow
def test_offline_another_version_does_not_pass(hub, hf_relabel, repo_id, v1, v2, tmp_path):
    """With v1.0.0 in the cache and no network, the library may give it to whoever asks for v1.1.0."""
    hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").ok()
    hf_relabel("publish", v2.folder, repo_id, "--version", "1.1.0").ok()
    online, offline = (
        environment(hub, tmp_path, PYTHONPATH=str(SCRIPT.parent), **more) for more in ({}, {"HF_HUB_OFFLINE": "1"})
    )
    prepare = (
        "import sys; from load_relabel import *; from huggingface_hub import snapshot_download\n"
        "load_relabel(sys.argv[1], '1.0.0')\n"
        "snapshot_download(sys.argv[1], repo_type='dataset', revision='v1.1.0', local_dir='folder')"
    )
    assert python(prepare, repo_id, env=online, cwd=tmp_path).returncode == 0
    load = (
        "import sys; from load_relabel import *\n"
        "for name, version in ((sys.argv[1], '1.0.0'), ('folder', '1.1.0'), (sys.argv[1], '1.1.0')):\n"
        "    load_relabel(name, version); print(name, version)"
    )
    done = python(load, repo_id, env=offline, cwd=tmp_path)
    assert done.returncode != 0, "rows of 1.0.0 were handed out as 1.1.0"
    assert done.stdout.splitlines() == [f"{repo_id} 1.0.0", "folder 1.1.0"], done.stderr
    if "VersionError" in done.stderr:
        assert "snapshot_download" in done.stderr, "which is the way to the folder"


@pytest.mark.slow
def test_the_command_line(v1, images, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(v1.folder), "1.0.0", "--config", "regions", "--images", str(images)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "60 of 60 images" in done.stdout
    assert "regions of [" in done.stdout


def test_what_the_command_line_refuses(loader, v1, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        loader.main(["--help"])
    assert end.value.code == 0
    assert "--images" in capsys.readouterr().out
    assert loader.main([str(v1.folder), "1.0.0", "--images", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "0 of 60 images" in out
    assert "missing, for example: 00/img_0000000.jpg" in out
    assert loader.main([str(v1.folder), "9.0.0"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("load_relabel: error: asked for version 9.0.0, got rows of 1.0.0")


def test_images_of_a_split_with_its_name_before_its_ids(loader, images, tmp_path):
    """A release has `validation/...` where an earlier split has the same file names; the images need no such folder."""
    rows = [{**row, "image_id": f"validation/{row['image_id']}"} for row in make_rows(20)]
    release = make_release(tmp_path / "release", rows=rows, split="validation")
    labels = loader.load_relabel(str(release.folder), split="validation")
    paths = [str(images / row["image_id"].removeprefix("validation/")) for row in rows]
    data = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    for source in (images, data):
        found = list(loader.joined(labels, source))
        assert len(found) == 20
        assert all(is_image(row["image"], row) for row in found)
        assert loader.open_images(source).missing(labels["image_id"][:]) == []
