"""Batches from ranges of images: order, errors, workers, and a thread that ends with its reader."""

import shutil
import threading

import locking
import pytest
import torch

from hf_relabel.config import SourceConfig
from hf_relabel.sources.loader import BatchLoader, ahead
from hf_relabel.sources.source import open_source


def first_pixel(image) -> torch.Tensor:
    return torch.tensor([float(value) for value in image.getpixel((0, 0))]).view(3, 1, 1)


@pytest.fixture
def source(image_folder, tmp_path):
    """The generated images; the second one is damaged."""
    folder = shutil.copytree(image_folder, tmp_path / "images")
    (folder / "circle" / "circle_1.png").write_bytes(b"no image")
    return open_source(SourceConfig(path=str(folder)))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranges_are_read_completely_and_in_order(source, workers):
    loader = BatchLoader(source, first_pixel, side=8, batch_size=2, workers=workers)
    for indices in (range(5, 10), range(5)):
        batches = list(loader.read(indices))
        assert [len(batch.images) for batch in batches] == [2, 2, 1]
        assert [image.index for batch in batches for image in batch.images] == list(indices)
        for batch in batches:
            read = [image for image in batch.images if image.error is None]
            expected = torch.stack([first_pixel(source.load(image.index).image) for image in read])
            assert torch.equal(batch.pixels, expected)
            assert all((image.width, image.height) == source.load(image.index).image.size for image in read)


@pytest.mark.timeout(60)
def test_workers_do_not_inherit_a_lock_that_a_thread_holds(source):
    """They start while a lock is held, as by a running thread of a library; a forked worker would wait forever."""
    loader = BatchLoader(source, locking.locked, side=8, batch_size=4, workers=1)
    with locking.LOCK:
        assert sum(len(batch.images) for batch in loader.read(range(8))) == 8


def test_an_unreadable_image_is_an_item_with_a_reason(source):
    (batch,) = BatchLoader(source, first_pixel, side=8, batch_size=3).read(range(0, 3))
    assert [image.error is None for image in batch.images] == [True, False, True]
    assert "not an image" in batch.images[1].error
    assert len(batch.pixels) == 2
    (alone,) = BatchLoader(source, first_pixel, side=8, batch_size=3).read(range(1, 2))
    assert alone.pixels is None


def test_ahead_raises_the_exceptions_from_its_thread():
    def items():
        yield 1
        raise ZeroDivisionError

    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(ahead(items(), 1))
    assert found == [1]


def test_ahead_computes_no_more_than_asked_and_ends_with_its_reader():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    reader = ahead(items(), 3)
    assert next(reader) == 0
    reader.close()
    assert len(made) <= 6  # one taken, three waiting, one in hand
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
