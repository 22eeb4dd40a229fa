"""Load a multi-label release made by hf_relabel, and join it with your own copy of the images.

    labels = load_relabel("user/name", "1.0.0")
    train = TrainingDataset(labels, images="path/to/the/images", target="soft", transform=my_transform)

This file is standalone: it needs datasets (2.14 or later), NumPy and Pillow, and PyTorch only for training. `labels` is
an ordinary `datasets.Dataset`; with the configuration `regions`, its rows contain masks for `decode_rle`. On the
command line, it shows the content of a release and checks whether all of your images are there:

    python load_relabel.py user/name 1.0.0 --images path/to/the/images
"""

from __future__ import annotations

import argparse
import io
import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

try:
    from torch import from_numpy as _to_tensor
    from torch.utils.data import Dataset as _TorchDataset
except ImportError:  # targets are NumPy arrays then
    _TorchDataset, _to_tensor = object, np.asarray
try:
    from pillow_heif import register_heif_opener

    register_heif_opener()
except ImportError:  # needed only for HEIC images
    pass


class VersionError(RuntimeError):
    """The rows belong to another version than the one asked for."""


def load_relabel(
    name: str,
    version: str | None = None,
    config_name: str = "labels",
    *,
    split: str | None = None,
    streaming: bool = False,
    columns: list[str] | None = None,
    **options: Any,
) -> Any:
    """Load a split of a release and check its version.

    Args:
        name: A dataset on the Hub, `user/name`, or a local release folder.
        version: Version such as `1.0.0` (tag `v1.0.0`); None accepts any version and loads the latest.
        config_name: `labels` (light) or `regions` (with masks).
        split: The split; optional if there is only one.
        streaming: Stream the rows instead of downloading all of them first.
        columns: Load only these columns.
        options: Further arguments of `datasets.load_dataset`, such as `token` or `cache_dir`.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` when streaming.

    Raises:
        VersionError: The cache or the folder contains another version.
        ValueError: There are several splits and `split` is None.
    """
    import datasets

    number = version.lstrip("v") if version else None
    if number and not os.path.isdir(name):
        options["revision"] = f"v{number}"
    data = datasets.load_dataset(name, config_name, split=split, streaming=streaming, **options)
    if split is None:
        if len(data) > 1:
            raise ValueError(f"{name} has the splits {', '.join(data)}: choose one with split=")
        data = next(iter(data.values()))
    if number:
        check_version(data, number)
    return data.select_columns(columns) if columns else data


def check_version(data: Any, version: str) -> None:
    """Raise VersionError unless all rows have this version; of a stream, only the first row is checked."""
    if hasattr(data, "unique"):
        found = sorted(data.unique("version"))
    else:
        found = sorted({row["version"] for row in data.take(1)})
    if found not in ([], [version.lstrip("v")]):
        raise VersionError(
            f"asked for version {version}, got rows of {', '.join(found)}. Offline, or with an old cache, the datasets "
            "library may return another version than the one asked for. Go online, or download the version once with "
            f'huggingface_hub.snapshot_download(name, repo_type="dataset", revision="v{version.lstrip("v")}", '
            "local_dir=folder) and load that folder."
        )


def class_names(data: Any) -> list[str]:
    """Names of the classes in the order of the class ids."""
    return list(data.features["label"].names)


def decode_rle(segmentation: dict[str, Any]) -> np.ndarray:
    """Decode the mask of a region, bool [height, width], from COCO's compressed run-length encoding.

    The counts are lengths of alternating runs of 0 and 1 in column-major order. Each is stored in characters with 5
    bits each, starting at '0', lowest bits first, with a bit that marks that more characters follow. From the fourth
    count on, the difference to the count two before is stored.
    """
    height, width = (int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii") if isinstance(counts, str) else counts:
        bits = byte - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if len(pixels) != height * width:
        raise ValueError(f"the runs of the mask have {len(pixels)} pixels, but its size is {height} x {width}")
    return pixels.reshape((height, width), order="F")


def multi_hot(labels: list[int], num_classes: int) -> np.ndarray:
    """Return a target with 1 for each label and 0 elsewhere, float32 [num_classes]."""
    target = np.zeros(num_classes, np.float32)
    target[np.asarray(labels, np.int64)] = 1
    return target


def soft(labels: list[int], scores: list[float], num_classes: int) -> np.ndarray:
    """Return a target with the score of each label and 0 elsewhere, float32 [num_classes]."""
    target = np.zeros(num_classes, np.float32)
    target[np.asarray(labels, np.int64)] = scores
    return target


class FolderImages:
    """Images in a folder, by image id.

    Args:
        folder: The image folder that was relabeled, with a subfolder per class.
    """

    def __init__(self, folder: str):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder}: no such image folder")
        self.folder = os.path.realpath(folder)

    def path(self, image_id: str) -> str:
        """Path of an image. Ids that lead out of the folder are refused."""
        path = os.path.normpath(os.path.join(self.folder, image_id))
        if os.path.isabs(image_id) or not path.startswith(self.folder + os.sep):
            raise ValueError(f"the image id {image_id!r} leads out of {self.folder}")
        return path

    def _file(self, image_id: str) -> str:
        """Path of an image, also where its id has the split's name in front, which folders need not have."""
        path = self.path(image_id)
        alone = image_id.partition("/")[2]
        return path if os.path.isfile(path) or not alone else self.path(alone)

    def missing(self, image_ids: list[str]) -> list[str]:
        """Return the ids without an image."""
        return [image_id for image_id in image_ids if not os.path.isfile(self._file(image_id))]

    def __getitem__(self, image_id: str) -> Image.Image:
        with Image.open(self._file(image_id)) as image:
            return upright_rgb(image)


class DatasetImages:
    """Images in a `datasets.Dataset`, such as a split of ILSVRC/imagenet-1k, by image id.

    The ids are the values of `id_column`, or the stored file names of the images, or split and row if there are none
    or they are not unique.

    Args:
        data: The map-style dataset in its original order.
        image_column: Column with the images.
        id_column: Column with the ids, if the release was made with one.
    """

    def __init__(self, data: Any, image_column: str = "image", id_column: str | None = None):
        import datasets

        self.image_column = image_column
        self.data = data.select_columns([image_column]).with_format(None)
        self.data = self.data.cast_column(image_column, datasets.Image(decode=False))  # decoded by upright_rgb
        if id_column is not None:
            ids = [str(value) for value in data.select_columns([id_column])[:][id_column]]
        else:
            stored = self.data.flatten()
            ids = _ids_of_paths(stored.select_columns([f"{image_column}.path"])[:][f"{image_column}.path"])
        self.rows = {image_id: row for row, image_id in enumerate(ids)} if ids else None

    def _row(self, image_id: str) -> int | None:
        if self.rows is not None and image_id in self.rows:
            return self.rows[image_id]
        alone = image_id.partition("/")[2]  # of several splits with the same ids, all but one have their name in front
        if self.rows is not None and alone in self.rows:
            return self.rows[alone]
        by_row = re.fullmatch(r"[\w.-]+/(\d{8})", image_id)
        return int(by_row[1]) if by_row and int(by_row[1]) < len(self.data) else None

    def missing(self, image_ids: list[str]) -> list[str]:
        """Return the ids without an image."""
        return [image_id for image_id in image_ids if self._row(image_id) is None]

    def __getitem__(self, image_id: str) -> Image.Image:
        row = self._row(image_id)
        if row is None:
            raise KeyError(f"the dataset of images has no {image_id!r}")
        cell = self.data[row][self.image_column]
        with Image.open(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])) as image:
            return upright_rgb(image)


def _ids_of_paths(paths: list[str | None]) -> list[str] | None:
    """Image ids from stored paths, None if they are not unique; absolute paths start at their common folder."""
    if not all(paths):
        return None
    names = []
    for path in paths:
        inner = path.partition("::")[0]
        inner = inner.partition("://")[2] or inner
        names.append(posixpath.normpath(inner.replace("\\", "/")))
    if any(posixpath.isabs(name) for name in names):
        common = posixpath.commonprefix([min(names), max(names)])
        names = [name[common.rfind("/") + 1 :] for name in names]
    return names if len(set(names)) == len(names) else None


TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}
"""EXIF orientation: counterclockwise quarter turns, and whether the picture is mirrored from left to right first."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image in RGB as it was relabeled, which is how the masks fit.

    The EXIF orientation is applied, transparent pixels are composited over white, and 16-bit gray is scaled to 8 bits.
    """
    # Pillow before 13 opens an uncompressed YCbCr TIFF as RGB, and takes its three bytes per pixel for four.
    raw_ycbcr = image.mode == "RGB" and getattr(image, "tag_v2", {}).get(262) == 6
    raw_ycbcr = raw_ycbcr and all(codec == "raw" for codec, *_ in image.tile)
    if raw_ycbcr:
        for number, tile in enumerate(image.tile):
            mode, *others = tile[3]
            make = getattr(tile, "_make", tuple)  # a named tuple since Pillow 11
            image.tile[number] = make((*tile[:3], (mode.replace("RGBX", "RGB"), *others)))
    image.load()
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata, for which Pillow raises many errors; the pixels may still be fine
        orientation = 1
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("32-bit gray of unknown range")
        scaled = ((gray + 128) // 257).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            scaled[gray == image.info["transparency"]] = 255
        rgb = Image.fromarray(scaled).convert("RGB")
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    else:
        rgb = (Image.frombytes("YCbCr", image.size, image.tobytes()) if raw_ycbcr else image).convert("RGB")
    turns, mirrored = TURNS.get(orientation, (0, False))
    if not turns and not mirrored:
        return rgb
    pixels = np.asarray(rgb)[:, ::-1] if mirrored else np.asarray(rgb)
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))


def open_images(images: Any, image_column: str = "image", id_column: str | None = None) -> Any:
    """Return `FolderImages` for a path, or `DatasetImages` for a `datasets.Dataset`."""
    if isinstance(images, (str, os.PathLike)):
        return FolderImages(os.fspath(images))
    return DatasetImages(images, image_column, id_column)


def joined(labels: Any, images: Any, **columns: str) -> Iterator[dict[str, Any]]:
    """Iterate over rows of a release (also of a stream), each with its image (PIL, RGB) under the key `image`."""
    opened = open_images(images, **columns)
    for row in labels:
        yield {**row, "image": opened[row["image_id"]]}


class TrainingDataset(_TorchDataset):
    """Pairs (image, target) for the images of a release, for a `torch.utils.data.DataLoader`.

    Args:
        labels: The result of `load_relabel`, without streaming.
        images: Folder with the images, or a `datasets.Dataset` that contains them.
        target: `multi_hot`, `soft` (the scores), or a function that returns the target of a row.
        threshold: Minimum score of a label.
        transform: Function applied to the PIL image.
        image_column, id_column: Columns in a `datasets.Dataset` of images.
    """

    def __init__(
        self,
        labels: Any,
        images: Any,
        target: str | Callable[[dict[str, Any]], Any] = "multi_hot",
        *,
        threshold: float = 0.0,
        transform: Callable[[Image.Image], Any] | None = None,
        image_column: str = "image",
        id_column: str | None = None,
    ):
        if not hasattr(labels, "__len__"):
            raise TypeError("labels are a stream: load them without streaming, or use joined(labels, images)")
        if not (callable(target) or target in ("multi_hot", "soft")):
            raise ValueError(f"target must be 'multi_hot', 'soft' or a function, got {target!r}")
        self.num_classes = len(class_names(labels))
        self.labels = labels.with_format(None)
        self.images = open_images(images, image_column, id_column)
        self.target = target
        self.threshold = threshold
        self.transform = transform
        missing = self.images.missing([row["image_id"] for row in self.labels.select(range(min(1, len(labels))))])
        if missing:
            raise FileNotFoundError(f"the images do not match the labels: {missing[0]!r} is not among them")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.labels[int(index)]
        image = self.images[row["image_id"]]
        return (self.transform(image) if self.transform else image), self.target_of(row)

    def target_of(self, row: dict[str, Any]) -> Any:
        """Return the target of a row: float32 [num_classes], or the result of the function given as `target`."""
        if callable(self.target):
            return self.target(row)
        kept = [
            (label, score) for label, score in zip(row["labels"], row["scores"], strict=True) if score >= self.threshold
        ]
        labels, scores = [label for label, _ in kept], [score for _, score in kept]
        if self.target == "soft":
            return _to_tensor(soft(labels, scores, self.num_classes))
        return _to_tensor(multi_hot(labels, self.num_classes))


def main(arguments: list[str] | None = None) -> int:
    """Show a release and check whether its images are there; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", help="dataset on the Hub, user/name, or a release folder")
    parser.add_argument("version", nargs="?", help="version such as 1.0.0 (default: the latest)")
    parser.add_argument("--config", default="labels", choices=["labels", "regions"], help="default: labels")
    parser.add_argument("--split", help="required only if there are several")
    parser.add_argument("--images", help="folder with your images, to check whether all are there")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="number of rows to show (default: 3)")
    options = parser.parse_args(arguments)
    try:
        labels = load_relabel(options.name, options.version, options.config, split=options.split)
        names = class_names(labels)
        versions = ", ".join(sorted(labels.unique("version"))) or "none"
        print(f"{options.name}: {len(labels)} images, {len(names)} classes, version {versions}")
        for row in labels.select(range(min(options.show, len(labels)))):
            found = ", ".join(
                f"{names[label]} {score:.2f}" for label, score in zip(row["labels"], row["scores"], strict=True)
            )
            regions = ""
            if options.config == "regions":
                sizes = [int(decode_rle(region["segmentation"]).sum()) for region in row["regions"]]
                regions = f"; regions of {sizes} pixels"
            given = "no original label" if row["label"] is None else names[row["label"]]
            print(f"  {row['image_id']} ({given}): {found or 'no labels'}{regions}")
        if options.images:
            missing = open_images(options.images).missing(labels.select_columns(["image_id"])[:]["image_id"])
            print(f"{len(labels) - len(missing)} of {len(labels)} images are in {options.images}")
            if missing:
                print(f"missing, for example: {missing[0]}")
                return 1
    except (VersionError, ValueError, OSError) as error:
        print(f"load_relabel: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
