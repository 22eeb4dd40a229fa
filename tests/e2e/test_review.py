"""From a run to a page, from answers to numbers and corrections, and to the next version."""

import contextlib
import io
import json
import shutil

import pytest

from hf_relabel.cli import main
from hf_relabel.release.reader import Release


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy of the finished run, with a version that has added labels; and its configuration."""
    folder = tmp_path_factory.mktemp("review") / "run"
    shutil.copytree(finished_run[0], folder, symlinks=True)
    build = ["--build.calibrated", "false", "--build.threshold", "0.01", "--build.version", "1.1.0"]
    ok("build", "--config", folder / "config.yaml", "--run.dir", folder, *build)
    return folder


def ok(*arguments) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(list(map(str, arguments))) == 0
    return printed.getvalue()


def read_index(folder) -> dict:
    text = (folder / "data" / "index.js").read_text()
    return json.loads(text.removeprefix("GALLERY.index(").removesuffix(");\n"))


def test_the_gallery_of_a_run_finds_its_images(run, tmp_path):
    printed = ok("gallery", run / "release", "--out", tmp_path / "page")
    assert "12 images" in printed
    assert "without" not in printed
    index = read_index(tmp_path / "page")
    assert index["has_run"]
    for row in index["rows"]:
        assert (tmp_path / "page" / "photos" / row[1]).stat().st_size > 0
    regions = (tmp_path / "page" / "data" / "regions-00000.js").read_text()
    assert "trained as" in regions
    assert '"windows":[[' in regions


def test_answers_become_the_next_version(run, tmp_path):
    before = Release.open(run / "release")
    printed = ok("review", run / "release", "--sample", 8, "--out", tmp_path / "page")
    assert "asks about 8 of" in printed
    review = read_index(tmp_path / "page")["review"]
    names = before.class_names
    answers = [
        {"image": image, "label": names[label], "score": score, "stratum": stratum,
         "answer": ["true", "false"][number % 2], "when": f"2026-01-01T00:00:{number:02d}Z"}
        for number, (image, label, score, stratum) in enumerate(review["items"])
    ]  # fmt: skip
    for who, given in (("Ada", answers), ("Bob", answers[:6])):
        value = {"format": "hf_relabel review", "format_version": 1, "sample": review["id"], "items": 8,
                 "release": review["release"], "strata": review["strata"], "reviewer": who, "saved": "",
                 "answers": given, "changes": []}  # fmt: skip
        (tmp_path / f"{who}.json").write_text(json.dumps(value))
    files = ["--answers", tmp_path / "Ada.json", "--answers", tmp_path / "Bob.json"]
    printed = ok("review", run / "release", *files)
    assert "checked by hand: 8 of" in printed
    assert "agreement of 2 reviewers: 6 of 6 pairs of answers are equal, Cohen's kappa 1.000" in printed
    build = ["--build.calibrated", "false", "--build.threshold", "0.9", "--build.version", "1.2.0"]
    assert "labels checked by hand" in ok("build", "--config", run / "config.yaml", "--run.dir", run, *build)
    after = Release.open(run / "release")
    rows = {row["image_id"]: row for row in after.rows("labels")}
    for answer in answers:
        row = rows[answer["image"]]
        assert (names.index(answer["label"]) in row["labels"]) == (answer["answer"] == "true")
        assert row["source"] == "human"
    assert after.provenance["checked"]["reviewers"] == 2
    assert "Ada" not in (after.folder / "manifest.json").read_text()
    assert "labels checked by hand now" in ok("diff", run / "releases" / "1.1.0", run / "release")
