"""`hf-relabel figure`, and `publish` with a preview, on a small release of real image files."""

import json
from pathlib import Path

import pytest
from PIL import Image
from release_folder import write_release
from tiny_data import NAMES, write_images

from hf_relabel.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 6 images in `release`, which are in `images`."""
    folder = tmp_path_factory.mktemp("figure")
    write_release(folder / "release", NAMES, write_images(folder, 6, 0))
    return folder


def test_one_picture_per_image(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    ids = [json.loads(line)["image_id"] for line in (folder / "truth.jsonl").read_text().splitlines()][:2]
    out = tmp_path / "figures"
    arguments = [str(folder / "release"), *ids, "--images", str(folder / "images"), "--out", str(out), "--side", "200"]
    assert main(["figure", *arguments]) == 0
    files = sorted(out.iterdir())
    assert [file.name for file in files] == sorted(f"{name.replace('/', '-')}.png" for name in ids)
    assert capsys.readouterr().out.splitlines() == [str(file) for file in sorted(files)]
    with Image.open(files[0]) as picture:
        assert picture.width == 3 * 200 + 4 * (200 // 24)


def test_unknown_ids_and_missing_photos_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    release = str(folder / "release")
    assert main(["figure", release, "cat/1.png", "--images", str(folder / "images")]) == 1
    assert "1 of 1 image ids are not in" in capsys.readouterr().err
    (tmp_path / "blue").mkdir()
    assert main(["figure", release, "blue/0000.png", "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "blue/0000.png: no figure (" in capsys.readouterr().err
    assert main(["figure", release]) == 2


def publish(folder: Path, *arguments: str) -> int:
    release = str(folder / "release")
    return main(["publish", release, "user/tiny", "--version", "1.0.0", "--license", "cc0-1.0", *arguments])


def card_of(folder: Path, tmp_path: Path, *arguments: str) -> str:
    images = ["--show-images", str(folder / "images")]
    assert publish(folder, "--card-only", str(tmp_path / "card.md"), *images, *arguments) == 0
    return (tmp_path / "card.md").read_text()


def test_a_preview_needs_a_license_of_the_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert "config_name: preview" not in card_of(folder, tmp_path)
    assert "no preview of images with masks: the license of the images is not known" in capsys.readouterr().out
    assert "config_name: preview" not in card_of(folder, tmp_path, "--images-license", "cc-by-nd-4.0")
    assert "does not allow changed images" in capsys.readouterr().out
    assert "config_name: preview" not in card_of(folder, tmp_path, "--preview", "off")
    assert "no preview" not in capsys.readouterr().out
    card = card_of(folder, tmp_path, "--images-license", "cc-by-4.0")
    assert "preview: 6 images with their regions drawn in" in capsys.readouterr().out
    assert "config_name: preview" in card
    assert "The configuration `preview` has 6 images" in card
    assert "config_name: preview" in card_of(folder, tmp_path, "--preview", "on")


def test_a_preview_without_images_is_misuse(folder: Path, capsys: pytest.CaptureFixture):
    assert publish(folder, "--preview", "on") == 2
    assert "--preview on: needs the images" in capsys.readouterr().err
