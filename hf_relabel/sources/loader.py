"""Images on their way from the source to the backbone: decoded, resized and made tensors ahead of the computation."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_relabel.errors import ImageReadError
from hf_relabel.sources.source import Source

T = TypeVar("T")

BATCHES_AHEAD = 2

IMAGES_AHEAD = 4
"""Images that each worker process reads ahead."""


@dataclass(frozen=True)
class Decoded:
    """One image of a range.

    Args:
        index: Its place in the source.
        width: Its own width in pixels, after EXIF rotation; 0 where it could not be read.
        height: Its own height.
        pixels: What the backbone takes, float32 [3, S, S]; None where it could not be read.
        error: Why it could not be read; None where it was.
    """

    index: int
    width: int
    height: int
    pixels: torch.Tensor | None
    error: str | None


@dataclass(frozen=True)
class Batch:
    """Images that go through the backbone together.

    Args:
        images: All of them, in order, without their pixels.
        pixels: Of those that could be read, float32 [images without an error, 3, S, S]; None where there are none.
    """

    images: list[Decoded]
    pixels: torch.Tensor | None

    @classmethod
    def of(cls, images: list[Decoded], pin: bool) -> "Batch":
        """The batch of some images; with `pin` in page-locked memory, which a GPU copies while it computes."""
        read = [image.pixels for image in images if image.pixels is not None]
        pixels = torch.stack(read) if read else None
        if pin and pixels is not None:
            pixels = pixels.pin_memory()
        return cls([replace(image, pixels=None) for image in images], pixels)


class _Images(Dataset):
    """The images of a source as `Decoded`; an unreadable one is an item too, with its error."""

    def __init__(self, source: Source, preprocess: Callable[[Image.Image], torch.Tensor], side: int):
        self.source = source
        self.preprocess = preprocess
        self.side = side

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Decoded:
        try:
            # Twice the side leaves the Lanczos filter all it needs, and a large JPEG is decoded at a fraction.
            loaded = self.source.load(index, min_side=2 * self.side)
        except ImageReadError as error:
            return Decoded(index, 0, 0, None, str(error))
        return Decoded(index, loaded.width, loaded.height, self.preprocess(loaded.image), None)


class _Order(Sampler):
    """Each time it is iterated, the images of the range that was set last."""

    def __init__(self) -> None:
        self.indices = range(0)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class BatchLoader:
    """Gives the images of a range in order, in batches, read ahead.

    The images are decoded and resized by worker processes, which live from the first range to the last and hand over
    one image at a time, so that little is under way; without workers by a thread of this process.

    Args:
        source: Where the images are.
        preprocess: From a picture to what the backbone takes.
        side: Pixels of the square that `preprocess` makes.
        batch_size: Images in a batch; a range's last one may be smaller.
        workers: Processes; 0 for none.
        pin: Whether the batches are put in page-locked memory.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Callable[[Image.Image], torch.Tensor],
        side: int,
        batch_size: int,
        workers: int = 0,
        pin: bool = False,
    ):
        self._order = _Order()
        self._batch_size = batch_size
        self._pin = pin
        self._images = DataLoader(
            _Images(source, preprocess, side),
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=IMAGES_AHEAD if workers else None,
        )

    def read(self, indices: range) -> Iterator[Batch]:
        """The batches of a range of images; one range must be read, or left, before the next."""
        self._order.indices = indices
        return ahead(self._batches(), BATCHES_AHEAD)

    def _batches(self) -> Iterator[Batch]:
        images = iter(self._images)
        while batch := list(islice(images, self._batch_size)):
            yield Batch.of(batch, self._pin)


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items, computed up to `count` ahead in a thread; an exception there is raised here."""
    done = object()
    waiting: queue.Queue = queue.Queue(maxsize=count)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        torch.set_num_threads(1)
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # handed over, whatever it is: the consumer raises it
            put((None, error))
        put((done, None))

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is done:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
