"""The page that asks about a sample, in real Chromium: answers, changes, the saved file, and what becomes of it."""

import json
import time

import pytest
from small_photos import NAMES, make_release

from hf_relabel.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a release of 40 photos and the page that asks about 20 of its added labels."""
    folder = tmp_path_factory.mktemp("review")
    make_release(folder, 40)
    command = ["review", str(folder / "release"), "--images", str(folder / "images"), "--out", str(folder / "page")]
    assert main([*command, "--sample", "20"]) == 0
    return folder


def saved(browser, folder, how):
    """Let the page save its file, and return its path."""
    browser.download_to(folder)
    how()
    end = time.monotonic() + 10
    while not (folder / "review.json").exists():
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.05)
    time.sleep(0.1)
    return folder / "review.json"


def test_answers_by_keyboard_are_saved_and_evaluated(made, browser, tmp_path, screenshots, capsys):
    browser.resize(1280, 800)
    browser.open(made / "page" / "index.html")
    assert browser.run("document.getElementById('count').textContent") == "20 of 20 questions"
    browser.run("document.getElementById('reviewer').value = 'Ada <b>'")
    browser.press("Enter")
    browser.wait("DETAIL.details")
    assert "0." not in browser.run("document.querySelector('aside').innerText")  # a score would suggest an answer
    browser.picture(screenshots / "review.png")
    for number in range(20):
        browser.press("nyyyu"[number % 5])
    assert browser.run("document.getElementById('asked').textContent").startswith("All answered")
    browser.press("z")
    assert browser.run("document.getElementById('asked').textContent") == "19 of 20 answered"
    browser.press("u")

    item = "DETAIL.entry.row[0]"
    image = browser.run(item)
    listed = browser.run("DETAIL.entry.row[3]")
    missing = next(name for label, name in enumerate(NAMES) if label not in listed)
    browser.press("a")
    browser.type(missing)
    browser.press("Enter")
    assert missing in browser.run("document.getElementById('changes').textContent")

    path = saved(browser, tmp_path, lambda: browser.press("s"))
    value = json.loads(path.read_text())
    assert value["reviewer"] == "Ada <b>"
    assert [answer["answer"] for answer in value["answers"]].count("true") == 12
    assert [answer["answer"] for answer in value["answers"]].count("false") == 4
    assert value["changes"][0] | {"when": ""} == {
        "image": image, "label": missing, "old": False, "new": True, "when": ""
    }  # fmt: skip

    command = ["review", str(made / "release"), "--answers", str(path), "--corrections", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "checked by hand: 16 of" in printed
    assert "(4 more unsure)" in printed
    lines = [json.loads(line) for line in (tmp_path / "out" / "corrections.jsonl").read_text().splitlines()]
    assert len(lines) == 17
    assert {line["who"] for line in lines} == {"Ada <b>"}
    assert sum(line["new"] is False for line in lines) == 4
    assert main(command) == 0  # again: nothing is added twice
    assert "0 corrections added" in capsys.readouterr().out
    browser.run("localStorage.clear()")


def test_a_click_on_a_region_gives_it_another_class_and_can_be_undone(made, browser, tmp_path):
    browser.resize(1280, 800)
    browser.open(made / "page" / "index.html")
    place = browser.run("GALLERY.entries.findIndex(entry => entry.row[8].length === 1)")
    browser.run(f"GALLERY.open(GALLERY.entries[{place}])")
    browser.wait("DETAIL.details && DETAIL.details.regions.length === 1")
    before = browser.run("GALLERY.name(DETAIL.details.regions[0].label)")
    browser.click("#overlay", 0.35, 0.4)
    browser.wait("document.getElementById('picker').open")
    assert before in browser.run("document.getElementById('picker-title').textContent")
    browser.type("tree" if before != "tree" else "cat")
    browser.click("#picker-ok")
    browser.wait("REVIEW.changes.length")
    (change,) = browser.run("REVIEW.changes")
    assert change["old"] == before
    assert change["new"] in ("tree", "cat")
    assert change["region"].startswith(change["image"] + "#")
    browser.open(made / "page" / "index.html")  # the browser keeps what was answered
    assert len(browser.run("REVIEW.changes")) == 1
    browser.run(f"GALLERY.open(GALLERY.entries[{place}])")
    browser.click("#changes button")
    assert browser.run("REVIEW.changes") == []
    browser.click("#overlay", 0.35, 0.4)
    browser.wait("document.getElementById('picker').open")
    browser.type("no such class")
    browser.press("Escape")
    browser.press("Escape")
    browser.wait("!document.getElementById('picker').open")
    assert browser.run("REVIEW.changes") == []
    browser.run("localStorage.clear()")


def test_answers_to_another_release_are_refused(made, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    make_release(tmp_path / "other", 30)
    sample = json.dumps(
        {"format": "hf_relabel review", "format_version": 1, "sample": "1", "reviewer": "a", "strata": [],
         "release": {"name": "Tiny", "version": "1.0.0", "manifest_sha256": "0"}, "answers": [], "changes": []}
    )  # fmt: skip
    (tmp_path / "review.json").write_text(sample)
    assert main(["review", str(tmp_path / "other" / "release"), "--answers", str(tmp_path / "review.json")]) == 1
    assert "name the release that the page was made from" in capsys.readouterr().err
    (tmp_path / "review.json").write_text('{"format": "something else"}')
    assert main(["review", str(tmp_path / "other" / "release"), "--answers", str(tmp_path / "review.json")]) == 1
    assert "not the answers of a review page" in capsys.readouterr().err
