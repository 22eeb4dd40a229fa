"""What only a run knows, in its gallery: windows, what regions trained as, and likely labels that are not listed."""

import pytest
from corrected_runs import at_version, make_run
from PIL import Image

from hf_relabel.cli import main


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The gallery of 40 images of a run."""
    folder = tmp_path_factory.mktemp("run")
    job = make_run(folder)
    (folder / "images").mkdir()
    for image_id in job.snapshot.image_ids:
        Image.new("RGB", (48, 48), (90, 120, 60)).save(folder / "images" / image_id)
    release = at_version(job, "1.0.0")
    command = ["gallery", str(release.folder), "--images", str(folder / "images"), "--out", str(folder / "page")]
    assert main([*command, "--max-images", "40"]) == 0
    return folder / "page"


def test_windows_training_targets_and_likely_labels(page, browser, screenshots):
    browser.resize(1280, 800)
    browser.open(page / "index.html")
    assert browser.run("document.getElementById('count').textContent") == "40 of 40 images (of 500 in the release)"
    browser.choose("sort", "missing")
    missing = browser.run("GALLERY.entries.map(entry => entry.row[7])")
    assert missing == sorted(missing, reverse=True)
    assert missing[0] > missing[-1]
    browser.press("Enter")
    browser.wait("DETAIL.details")
    text = browser.run("document.querySelector('aside').textContent")
    assert "Not listed, by probability" in text
    assert "trained as class" in text or "not used for training" in text
    assert browser.run("document.getElementById('window-grid').hidden")
    browser.press("w")
    assert not browser.run("document.getElementById('window-grid').hidden")
    assert browser.run("document.getElementById('window-grid').children.length") == 9
    browser.picture(screenshots / "windows.png")
    browser.press("w")
    assert browser.run("document.getElementById('window-grid').hidden")
