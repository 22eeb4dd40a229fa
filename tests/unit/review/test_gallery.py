"""The gallery in real headless Chromium: every filter and key, names that look like HTML, a phone, and its speed."""

import json

import pytest
from browser import PHONE, Browser
from small_photos import NAMES, make_release

from hf_relabel.cli import main
from hf_relabel.review.gallery import write_gallery
from hf_relabel.review.photos import photos_in_folder

IDS = "GALLERY.entries.map(entry => entry.row[0])"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a release of 40 photos, one of them missing, and its gallery with true labels; and its rows."""
    folder = tmp_path_factory.mktemp("gallery")
    _, rows = make_release(folder, 40)
    (folder / "images" / rows[3]["image_id"]).unlink()
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    command = ["gallery", str(folder / "release"), "--images", str(folder / "images"), "--out", str(folder / "page")]
    assert main([*command, "--truth", str(folder / "truth.jsonl")]) == 0
    for row, true in zip(rows, truth, strict=True):
        row["truth"] = true["labels"]
    return folder, rows


@pytest.fixture
def page(made, browser) -> Browser:
    browser.resize(1280, 800)
    browser.open(made[0] / "page" / "index.html")
    return browser


def _added(row):
    return {label: score for label, score in zip(row["labels"], row["scores"], strict=True) if label != row["label"]}


def _doubt(row):
    has_doubt = row["label_score"] is not None
    return sum(1 - score for score in _added(row).values()) + (1 - row["label_score"] if has_doubt else 0)


FILTERS = [
    ({"class": "1"}, lambda row: 1 in row["labels"] or row["label"] == 1),
    ({"class": "1", "kind": "added"}, lambda row: 1 in _added(row)),
    ({"class": "1", "kind": "given"}, lambda row: row["label"] == 1),
    ({"number": "2"}, lambda row: len(row["labels"]) == 2),
    ({"number": "4"}, lambda row: len(row["labels"]) >= 4),
    ({"kind": "added", "low": "0.6", "high": "0.7"}, lambda row: any(0.6 <= s <= 0.7 for s in _added(row).values())),
    ({"find": "B/<B>000"}, lambda row: "b/<b>000" in row["image_id"]),
    ({"disagreement": "doubtful"}, lambda row: row["label_score"] is not None and row["label_score"] < 0.5),
    (
        {"disagreement": "unseen"},
        lambda row: row["label"] is not None and row["label"] not in [region["label"] for region in row["regions"]],
    ),
    ({"disagreement": "other"}, lambda row: False),
    ({"disagreement": "agree"}, lambda row: set(row["labels"]) == set(row["truth"])),
    ({"disagreement": "wrong"}, lambda row: bool(set(_added(row)) - set(row["truth"]))),
    ({"disagreement": "true"}, lambda row: bool(set(_added(row)) & set(row["truth"]))),
    ({"disagreement": "missing"}, lambda row: bool(set(row["truth"]) - set(row["labels"]))),
    ({"disagreement": "given"}, lambda row: row["label"] is not None and row["label"] not in row["truth"]),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=[str(filters) for filters, _ in FILTERS])
def test_a_filter_shows_exactly_the_images_that_fit(made, page, filters, expected):
    for field, value in filters.items():
        page.choose(field, value)
    wanted = [row["image_id"] for row in made[1] if expected(row)]
    assert page.run(IDS) == wanted
    assert page.run("document.getElementById('count').textContent") == f"{len(wanted)} of 40 images"
    assert page.run("document.getElementById('empty').hidden") == bool(wanted)
    page.press("r")
    page.wait(f"{IDS}.length === 40")


def test_the_most_doubtful_labels_come_first(made, page):
    page.choose("sort", "wrong")
    doubts = {row["image_id"]: _doubt(row) for row in made[1]}
    values = [doubts[image_id] for image_id in page.run(IDS)]
    assert values == pytest.approx(sorted(values, reverse=True))
    assert values[0] > values[-1]
    page.choose("sort", "labels")
    counts = {row["image_id"]: len(row["labels"]) for row in made[1]}
    assert [counts[image_id] for image_id in page.run(IDS)] == sorted(counts.values(), reverse=True)


def test_names_that_look_like_html_are_shown_as_text(made, page, screenshots):
    page.choose("class", "1")
    page.press("Enter")
    page.wait("DETAIL.details")
    text = page.run("document.body.textContent")
    assert NAMES[1] in text
    assert "<b>" in page.run("document.getElementById('image-id').textContent")
    assert page.run("document.querySelectorAll('[onerror], #grid b, #detail aside b > *').length") == 0
    assert page.run("document.title") == "Tiny 1.0.0"
    page.picture(screenshots / "escaped_names.png")


def test_every_key(made, page, screenshots):
    def is_open():
        return page.run("DETAIL.isOpen")

    current = "GALLERY.entries[GALLERY.current].row[0]"
    ids = page.run(IDS)
    columns = page.run("GALLERY.columns()")
    for key, place in [("ArrowRight", 1), ("j", 2), ("k", 1), ("ArrowLeft", 0), ("ArrowDown", columns), ("ArrowUp", 0)]:
        page.press(key)
        assert page.run(current) == ids[place], key
    page.press("/")
    page.type("0011")
    assert [image_id[-8:] for image_id in page.run(IDS)] == ["0011.jpg"]
    page.press("Escape")
    page.press("Enter")
    assert is_open()
    page.press("Escape")
    assert not is_open()
    page.press("r")
    page.wait(f"{IDS}.length === 40")

    with_regions = next(place for place, row in enumerate(made[1]) if len(row["regions"]) == 2)
    page.run(f"GALLERY.open(GALLERY.entries[{with_regions}])")
    drawn = (
        "(c => { const blank = document.createElement('canvas'); blank.width = c.width; blank.height = c.height;"
        " return c.toDataURL() !== blank.toDataURL(); })(document.getElementById('overlay'))"
    )
    assert page.run(drawn)
    page.picture(screenshots / "detail.png")
    page.press("1")
    page.press("2")
    assert not page.run(drawn)
    page.press("1")
    assert page.run(drawn)
    page.press("m")
    assert page.run("document.getElementById('overlay').hidden")
    page.press("ArrowRight")
    assert page.run(current) == ids[with_regions + 1]
    page.press("ArrowLeft")
    page.press("j")
    page.press("k")
    assert page.run(current) == ids[with_regions]
    page.press("?")
    assert page.run("document.getElementById('help').open")
    page.press("Escape")
    page.wait("!document.getElementById('help').open")
    assert is_open()


def test_an_image_without_a_photo_is_shown_as_such(made, page, capsys):
    missing = made[1][3]["image_id"]
    page.choose("find", missing[-8:])
    assert "no photo" in page.run("document.getElementById('grid').textContent")
    page.press("Enter")
    assert page.run("document.getElementById('unreadable').offsetHeight") > 0
    out = made[0] / "again"
    assert main(["gallery", str(made[0] / "release"), "--images", str(made[0] / "images"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "40 images" in printed
    assert "without a photo: 1 (No such file or directory)" in printed


def test_a_phone_shows_the_page_without_scrolling_sideways(page, screenshots):
    page.resize(*PHONE)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.run(fits)
    page.picture(screenshots / "phone_list.png")
    page.press("Enter")
    page.wait("DETAIL.details")
    assert page.run(fits)
    assert page.run("document.getElementById('photo').getBoundingClientRect().width > 300")
    page.picture(screenshots / "phone_detail.png")


def test_a_folder_of_other_files_is_left_alone(made, tmp_path, capsys):
    (tmp_path / "diary.txt").write_text("dear diary")
    command = ["gallery", str(made[0] / "release"), "--images", str(made[0] / "images"), "--out", str(tmp_path)]
    assert main(command) == 1
    assert "is not a gallery" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.slow
def test_a_thousand_images_show_their_first_picture_within_a_second(tmp_path, browser):
    release, _ = make_release(tmp_path, 1000)
    write_gallery(release, photos_in_folder(tmp_path / "images"), tmp_path / "page")
    browser.resize(1280, 800)
    assert min(browser.open(tmp_path / "page" / "index.html") for _ in range(3)) < 1, "the machine may be busy"
    browser.press("PageDown")
    assert browser.run("document.getElementById('page').textContent") == "page 2 of 17"
    browser.press("PageUp")
    assert browser.run("GALLERY.current") == 0
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "page" / "thumbs").iterdir()}
    write_gallery(release, photos_in_folder(tmp_path / "images"), tmp_path / "page")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "page" / "thumbs").iterdir()} == copies
