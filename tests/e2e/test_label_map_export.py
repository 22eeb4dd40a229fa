"""`hf-relabel export label-maps` from a finished run, read again as ReLabel's maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_line, hf_relabel
from PIL import Image

from hf_relabel.labeling.label_maps import label_map_path, read_label_map

pytestmark = pytest.mark.slow


def test_maps_of_a_run_can_be_read_and_train_another_labeler(
    finished_run: tuple[Path, str], image_folder: Path, tmp_path: Path
):
    run = str(finished_run[0])
    out = tmp_path / "maps"
    done = hf_relabel("export", "label-maps", run, str(out))
    assert done.returncode == 0, done.stderr
    assert "12 label maps written, 12 by a head that has not seen the image, 0 were there" in done.stdout
    assert (out / "classes.txt").read_text().split() == ["circle", "square", "triangle"]
    for file in sorted(image_folder.rglob("*.png")):
        label_map = read_label_map(label_map_path(out, str(file.relative_to(image_folder))), 3)
        assert label_map.shape == (2, 3, 15, 15)
        assert (label_map[0] >= 0).all()
        assert (np.diff(label_map[0].numpy(), axis=0) <= 0).all(), "the highest logit comes first"
    removed = [out / "circle" / "circle_2.pt", *sorted(out.rglob("*.pt"))[-2:]]
    made = {file: file.read_bytes() for file in set(removed)}
    for file in made:
        file.unlink()
    again = hf_relabel("export", "label-maps", run, str(out))
    assert f"{len(made)} label maps written, {len(made)} by a head" in again.stdout
    assert f"{12 - len(made)} were there" in again.stdout
    assert {file: file.read_bytes() for file in made} == made
    config = str(finished_run[0] / "config.yaml")
    arguments = ["--score.method", "label_map", "--score.label_maps", str(out), "--run.dir", str(tmp_path / "run")]
    trained = hf_relabel("run", "--config", config, *arguments)
    assert trained.returncode == 0, trained.stderr
    assert "kept by its label map" in trained.stdout


def test_images_that_it_was_trained_on_are_known_by_their_content(
    finished_run: tuple[Path, str], image_folder: Path, tmp_path: Path
):
    photos = tmp_path / "photos"
    photos.mkdir()
    trained, other = sorted(image_folder.rglob("*.png"))[:2]
    (photos / "renamed.png").write_bytes(trained.read_bytes())
    Image.open(other).rotate(180).save(photos / "new.png")
    (photos / "broken.png").write_bytes(b"nothing")
    done = hf_relabel("export", "label-maps", str(finished_run[0]), str(tmp_path / "m"), "--images", str(photos))
    assert done.returncode == 0, done.stderr
    assert "2 label maps written, 1 by a head that has not seen the image, 0 were there" in done.stdout
    assert "1 images have no map: " in done.stdout
    assert torch.load(tmp_path / "m" / "new.pt", weights_only=True).dtype == torch.float16
    line = error_line(hf_relabel("export", "label-maps", str(finished_run[0]), str(photos)), 1)
    assert "contains other files" in line
