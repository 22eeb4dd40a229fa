"""Image loading for the backbone: decodes, resizes and batches images while the previous batch is computed."""

import contextlib
import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_relabel.errors import ImageReadError, StageError
from hf_relabel.sources.source import Source

T = TypeVar("T")

BATCHES_AHEAD = 2
"""Batches prepared in advance."""

IMAGES_AHEAD = 4
"""Images that each worker process prepares in advance."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image, or the reason why it could not be read.

    Args:
        index: Index in the source.
        width: Width of the original in pixels, after EXIF rotation; 0 if it could not be read.
        height: Height of the original in pixels, after EXIF rotation; 0 if it could not be read.
        pixels: Input of the backbone, float32 [3, S, S]; None if the image could not be read.
        error: Why the image could not be read; None if it was read.
        orientation: EXIF orientation of the stored pixels, 1 to 8.
        sha256: Hash of the file, in hexadecimal; None if it could not be read.
    """

    index: int
    width: int
    height: int
    pixels: torch.Tensor | None
    error: str | None
    orientation: int = 1
    sha256: str | None = None


@dataclass(frozen=True)
class Batch:
    """Images that go through the backbone together.

    Args:
        images: All images in order, without their pixels.
        pixels: Pixels of the images without an error, float32 [M, 3, S, S]; None if no image could be read.
    """

    images: list[Decoded]
    pixels: torch.Tensor | None

    @classmethod
    def of(cls, images: list[Decoded], pin: bool) -> "Batch":
        """Stack images; `pin` uses page-locked memory, which a GPU can copy from while it computes."""
        read = [image.pixels for image in images if image.pixels is not None]
        pixels = torch.stack(read) if read else None
        if pin and pixels is not None:
            pixels = pixels.pin_memory()
        return cls([replace(image, pixels=None) for image in images], pixels)


class _Images(Dataset):
    """The images in a source as `Decoded`; an unreadable image is an item with an error."""

    def __init__(self, source: Source, preprocess: Callable[[Image.Image], torch.Tensor], side: int):
        self.source = source
        self.preprocess = preprocess
        self.side = side

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int | tuple[int, bytes | None]) -> Decoded:
        index = item[0] if isinstance(item, tuple) else item
        try:
            # Twice the side is enough for the Lanczos filter, and lets a large JPEG be decoded at a reduced size.
            loaded, sha256 = self.source.load_hashed(item, min_side=2 * self.side)
        except ImageReadError as error:
            return Decoded(index, 0, 0, None, str(error))
        pixels = self.preprocess(loaded.image)
        return Decoded(index, loaded.width, loaded.height, pixels, None, loaded.orientation, sha256)


class _Order(Sampler):
    """Iterates over the range of images that was set last.

    A streamed dataset's files are read here, in this process, so that several workers do not read the same ones.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.indices = range(0)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.source.read(self.indices))


class BatchLoader:
    """Loads ranges of images in order, in batches, ahead of their use.

    Worker processes decode and resize the images. They are started once for all ranges and return one image at a
    time, which keeps memory use low. Without workers, a thread does the same.

    Args:
        source: The images.
        preprocess: Converts an RGB image to the input of the backbone.
        side: Side in pixels of the square that `preprocess` makes.
        batch_size: Images per batch; the last batch in a range may be smaller.
        workers: Number of worker processes; 0 uses a thread.
        pin: Whether batches are placed in page-locked memory.
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
        self._order = _Order(source)
        self._batch_size = batch_size
        self._pin = pin
        self._images = DataLoader(
            _Images(source, preprocess, side),
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            multiprocessing_context=worker_context(__name__) if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=IMAGES_AHEAD if workers else None,
        )

    def read(self, indices: range) -> Iterator[Batch]:
        """Yield the batches of a range of images; finish or close one range before reading the next."""
        self._order.indices = indices
        return ahead(self._batches(), BATCHES_AHEAD)

    def _batches(self) -> Iterator[Batch]:
        with killed_workers("--run.workers"):
            images = iter(self._images)
            while batch := list(islice(images, self._batch_size)):
                yield Batch.of(batch, self._pin)


@contextlib.contextmanager
def killed_workers(option: str) -> Iterator[None]:
    """Make the error for a worker process that was killed one line.

    Args:
        option: The option that sets the number of workers.

    Raises:
        StageError: A worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise StageError(
            "a worker process that reads images was killed, as a rule because the machine ran out of memory; run the "
            f"command again with fewer {option} or more memory"
        ) from error


def worker_context(preload: str) -> Any:
    """How worker processes are started: not by forking this process, which has threads that may hold locks.

    A fork server is a process without threads that has imported what the workers need; elsewhere they are spawned.

    Args:
        preload: The module that the workers need. The first call in a process decides, as there is one server.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield the same items, computed up to `count` ahead in a thread; its exceptions are raised here."""
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
        except BaseException as error:  # passed to the consumer, which raises it
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
