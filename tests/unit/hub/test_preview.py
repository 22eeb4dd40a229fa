"""The configuration `preview`."""

from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image
from release_folder import write_release

from hf_relabel.errors import HubError
from hf_relabel.hub.preview import SIDE, make_preview, why_no_preview
from hf_relabel.release.reader import Release

NAMES = ["cat", "dog"]
SIZE = (40, 30)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Ten images with a region each; their photos are in `photos`."""
    folder = tmp_path_factory.mktemp("preview")
    (folder / "photos").mkdir()
    rows = []
    mask = np.zeros(SIZE[::-1], bool)
    mask[5:25, 5:25] = True
    for number in range(10):
        name = f"{number}.png"
        Image.new("RGB", SIZE, (30, 60, 90)).save(folder / "photos" / name)
        region = {"label": number % 2, "score": 0.9, "mask": mask}
        rows.append(
            {"image_id": name, "label": number % 2, "labels": [number % 2], "scores": [1.0], "regions": [region]}
            | {"width": SIZE[0], "height": SIZE[1]}
        )
    return Release.open(write_release(folder / "release", NAMES, rows))


def photos_of(release: Release) -> Path:
    return release.folder.parent / "photos"


def test_rows_are_pictures_with_the_regions_drawn_in(release: Release, tmp_path: Path):
    preview = make_preview(release, photos_of(release), 4)
    path = tmp_path / Path(preview.path).name
    path.write_bytes(preview.content)
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == preview.rows == 4
    assert loaded.features["labels"].feature.names == NAMES
    assert isinstance(loaded.features["image"], datasets.Image)
    first = loaded[0]
    assert max(first["image"].size) <= SIDE
    pixels = np.asarray(first["image"]).astype(int)
    middle, corner = pixels[pixels.shape[0] // 2, pixels.shape[1] // 3], pixels[-3, -3]
    assert middle[0] > corner[0] + 20, "the region is filled with red"
    assert preview.config == {
        "config_name": "preview", "data_files": [{"split": "train", "path": preview.path}]
    }  # fmt: skip


def test_unreadable_photos_are_left_out_and_counted(release: Release, tmp_path: Path):
    for name in ("0.png", "3.png"):
        (tmp_path / name).write_bytes((photos_of(release) / name).read_bytes())
    (tmp_path / "1.png").write_bytes(b"nothing")
    preview = make_preview(release, tmp_path)
    assert preview.rows == 2
    assert preview.left_out.total() == 8
    with pytest.raises(HubError, match="no image could be drawn"):
        make_preview(release, tmp_path / "empty")


def test_the_same_release_makes_the_same_file(release: Release):
    one, other = (make_preview(release, photos_of(release)) for _ in range(2))
    assert (one.path, one.content) == (other.path, other.content)


@pytest.mark.parametrize(
    ("license_id", "reason"),
    [
        (None, "is not known"),
        ("other", "does not say"),
        ("cc-by-nc-nd-4.0", "does not allow changed images"),
        ("cc-by-4.0", None),
        ("cc0-1.0", None),
    ],
)
def test_licenses_that_do_not_allow_a_preview(license_id: str | None, reason: str | None):
    found = why_no_preview(license_id)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_an_unknown_license_is_refused(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="--images-license 'cc-by-9'"):
        why_no_preview("cc-by-9")
