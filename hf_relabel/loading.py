"""Images on their way from the source to the backbone: decoded, resized and made tensors ahead of the computation."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hf_relabel.errors import ImageReadError
from hf_relabel.runner import Shard
from hf_relabel.source import Source

T = TypeVar("T")

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Decoded:
    """One image of a shard.

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


class _Images(Dataset):
    """The images of a source as `Decoded`; an unreadable one is an item too, with its error."""

    def __init__(self, source: Source, indices: range, preprocess: Callable[[Image.Image], torch.Tensor], side: int):
        self.source = source
        self.indices = indices
        self.preprocess = preprocess
        self.side = side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Decoded:
        index = self.indices[item]
        try:
            # Twice the side leaves the Lanczos filter all it needs, and a large JPEG is decoded at a fraction.
            loaded = self.source.load(index, min_side=2 * self.side)
        except ImageReadError as error:
            return Decoded(index, 0, 0, None, str(error))
        return Decoded(index, loaded.width, loaded.height, self.preprocess(loaded.image), None)


def decoded_batches(
    source: Source,
    shard: Shard,
    preprocess: Callable[[Image.Image], torch.Tensor],
    side: int,
    batch_size: int,
    workers: int,
) -> Iterator[list[Decoded]]:
    """A shard's images in order, in batches, read ahead by `workers` processes (0: by a thread of this one)."""
    loader = DataLoader(
        _Images(source, range(shard.start, shard.stop), preprocess, side),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
    )
    return ahead(loader, BATCHES_AHEAD)


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
