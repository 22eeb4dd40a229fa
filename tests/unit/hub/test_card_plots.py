import io

import numpy as np
import pytest
from PIL import Image
from releases import CLASSES, make_release, make_rows

from hf_relabel.errors import HubError
from hf_relabel.hub import card_plots
from hf_relabel.hub.card_plots import SAMPLES, card_pictures, sample_rows
from hf_relabel.pictures.charts import BLUE, ORANGE

PATHS = [f"card/{name}.png" for name in ("labels_per_image", "added_classes", "label_pairs", "scores", "gallery")]


def opened(png):
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def share(picture, color):
    """Share of the pixels of a picture that have a color, given as RGB or `#rrggbb`."""
    if isinstance(color, str):
        color = tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))
    return float((picture == color).all(axis=-1).mean())


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release") / "release")


def test_every_picture_is_there(release):
    pictures = card_pictures(release)
    assert list(pictures) == PATHS
    for png in pictures.values():
        picture = opened(png)
        assert max(picture.shape) < 2000
        assert picture.std() > 5
    assert share(opened(pictures["card/labels_per_image.png"]), BLUE) > 0.05
    assert share(opened(pictures["card/scores.png"]), ORANGE) > 0.02
    assert share(opened(pictures["card/added_classes.png"]), ORANGE) > 0.05


def test_the_same_release_gives_the_same_bytes(release):
    assert card_pictures(release) == card_pictures(release), "otherwise publishing again would upload them again"


def test_a_release_without_labels_and_regions(tmp_path):
    rows = [{**row, "labels": [], "scores": [], "regions": []} for row in make_rows(5)]
    pictures = card_pictures(make_release(tmp_path / "release", rows=rows))
    assert share(opened(pictures["card/added_classes.png"]), ORANGE) == 0
    assert share(opened(pictures["card/label_pairs.png"]), ORANGE) == 0
    assert opened(pictures["card/gallery.png"]).std() > 1


def test_long_names_stay_within_the_picture(tmp_path):
    names = [f"class {number} " + "with a very long name " * 10 for number in range(1000)]
    rows = list(make_rows(40, threshold=0.1, classes=1000))
    pictures = card_pictures(make_release(tmp_path / "release", rows=rows, class_names=names))
    for path in ("card/added_classes.png", "card/label_pairs.png"):
        picture = opened(pictures[path])
        assert (picture[:, :4] == 255).all(), "nothing is cut off at the left"
        assert share(picture, ORANGE) > 0.1


def test_the_last_bar_counts_images_with_many_labels(tmp_path):
    names = [str(number) for number in range(40)]
    rows = list(make_rows(3, classes=40))
    rows[0] |= {"labels": list(range(30)), "scores": [0.5] * 30}
    pictures = card_pictures(make_release(tmp_path / "release", rows=rows, class_names=names))
    picture = opened(pictures["card/labels_per_image.png"])
    assert share(picture[:, -60:], BLUE) > 0.05, "11 or more"


@pytest.fixture
def images(tmp_path):
    """The source's images, all in one color that the drawings do not use."""
    for row in make_rows(60):
        path = tmp_path / "images" / row["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"]), (10, 90, 60)).save(path.with_suffix(".png"))
        path.with_suffix(".png").rename(path)
    return tmp_path / "images"


def greenish(picture):
    """Share of pixels in the images' color, dimmed or not."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return float(((green > blue + 10) & (blue > red + 10) & (green < 100)).mean())


def test_the_sources_pixels_are_shown_only_if_they_may_be(release, images):
    assert greenish(opened(card_pictures(release)["card/gallery.png"])) == 0
    assert greenish(opened(card_pictures(release, images)["card/gallery.png"])) > 0.2


def test_images_of_the_gallery_that_cannot_be_shown(release, tmp_path, images):
    with pytest.raises(HubError, match=r"gallery: cannot read .*give the folder of the source's images"):
        card_pictures(release, tmp_path)
    (tmp_path / "linked").mkdir()
    for path in images.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    with pytest.raises(HubError, match="is outside"):
        card_pictures(release, tmp_path / "linked")
    for path in images.rglob("*.jpg"):
        Image.new("RGB", (7, 7)).save(path)
    with pytest.raises(Exception, match="differs from the image size"):
        card_pictures(release, images)


@pytest.mark.parametrize(("count", "rows_per_file"), [(1, 1), (5, 2), (60, 25), (60, 4), (60, 100)])
def test_samples_are_spread_over_the_release(tmp_path, count, rows_per_file):
    rows = list(make_rows(count))
    release = make_release(tmp_path / "release", rows=rows, rows_per_file=rows_per_file)
    samples = list(sample_rows(release))
    ids = [row["image_id"] for row in samples]
    assert ids == sorted(set(ids))
    assert len(ids) == min(SAMPLES, count)
    stored = {row["image_id"]: row for batch in release.batches("regions") for row in batch.to_pylist()}
    assert samples == [stored[image_id] for image_id in ids]
    if count == 60:
        assert ids[0] < "02"
        assert ids[-1] > "07"


def test_captions_keep_the_scores(release):
    row = {"labels": [0, 1], "scores": [0.5, 0.25]}
    long, short = card_plots._captions(row, ["a name " * 30, *CLASSES])
    assert long.endswith("... 0.50")
    assert short == "cat 0.25"
