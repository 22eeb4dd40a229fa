"""The gallery of real photos with their true labels in Chromium."""

import json

import pytest
from browser import Browser
from release_folder import write_release

from hf_relabel.cli import main


@pytest.mark.slow
def test_the_gallery_of_voc_photos(shared_data, tmp_path):
    lines = [json.loads(line) for line in (shared_data / "voc" / "truth.jsonl").read_text().splitlines()]
    names = sorted({name for line in lines for name in line["labels"]})
    rows = []
    for number, line in enumerate(sorted(lines, key=lambda line: line["image_id"])):
        given = names.index(line["given"])
        others = [names.index(name) for name in line["labels"] if name != line["given"]][: number % 3]
        wrong = [] if number % 4 else [(given + 1) % len(names)]
        added = list(dict.fromkeys([*others, *wrong]))
        scores = [1.0, *(0.9 if label in others else 0.6 for label in added)]
        rows.append({"image_id": line["image_id"], "label": given, "labels": [given, *added], "scores": scores})
    write_release(tmp_path / "release", names, rows)
    voc = shared_data / "voc"
    command = ["gallery", tmp_path / "release", "--images", voc / "images", "--truth", voc / "truth.jsonl"]
    assert main([*map(str, command), "--out", str(tmp_path / "page")]) == 0
    truth = {line["image_id"]: {names.index(name) for name in line["labels"]} for line in lines}
    browser = Browser(tmp_path / "chromium")
    try:
        assert min(browser.open(tmp_path / "page" / "index.html") for _ in range(3)) < 1, "the machine may be busy"
        for disagreement, expected in (
            ("wrong", [row for row in rows if set(row["labels"]) - truth[row["image_id"]]]),
            ("missing", [row for row in rows if truth[row["image_id"]] - set(row["labels"])]),
            ("agree", [row for row in rows if truth[row["image_id"]] == set(row["labels"])]),
        ):
            browser.choose("disagreement", disagreement)
            assert browser.run("GALLERY.entries.length") == len(expected) > 20
        browser.press("Enter")
        browser.wait("DETAIL.details && document.getElementById('photo').naturalWidth > 200")
        browser.press("ArrowRight")
        browser.wait("document.getElementById('photo').complete")
        browser.press("Escape")
        browser.press("PageDown")
        assert browser.run("GALLERY.page") == 1
        assert browser.errors == []
    finally:
        browser.close()
