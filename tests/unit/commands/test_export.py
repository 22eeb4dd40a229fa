"""`hf-relabel export FORMAT` as a user types it."""

import json

import pytest
from releases import make_release

from hf_relabel.cli import main


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["coco", "--masks", "polygons"], ""),
        (["fiftyone", "--masks", "uncompressed-rle"], "labels.json"),
        (["yolo"], "data.yaml"),
        (["label-studio", "--masks", "polygons", "--image-root", "s3://bucket/"], "tasks.json"),
    ],
)
def test_every_format_says_what_it_wrote(tmp_path, capsys, arguments, written):
    release = make_release(tmp_path / "release", images=6)
    kind, *options = arguments
    command = ["export", kind, str(release.folder), str(tmp_path / "out"), *options]
    assert main(command) == 0
    assert "6 images, " in capsys.readouterr().out
    path = tmp_path / "out" / written if written else tmp_path / "out"
    content = path.read_text()
    if kind in ("coco", "fiftyone"):
        form = {type(annotation["segmentation"]) for annotation in json.loads(content)["annotations"]}
        assert form == ({list} if kind == "coco" else {dict})
    if kind == "label-studio":
        assert json.loads(content)[0]["data"]["image"].startswith("s3://bucket/00/")
    assert main(command) == 1, "an export is not replaced without being told to"
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
