import numpy as np
import pytest

from hf_relabel.release import chunking
from hf_relabel.release.chunking import LEAST, MOST, chunks, reused_share


@pytest.fixture
def write(tmp_path):
    """Write bytes to a numbered file."""
    paths = []

    def write(content: bytes):
        paths.append(tmp_path / f"{len(paths)}.bin")
        paths[-1].write_bytes(content)
        return paths[-1]

    return write


def noise(size, seed=0):
    return np.random.default_rng(seed).bytes(size)


def test_the_rolling_hash_is_its_definition():
    data = np.frombuffer(noise(300), np.uint8)
    found = chunking._gear_hashes(data)
    for end in (0, 1, 62, 63, 64, 65, 299):
        expected = 0
        for age, byte in enumerate(data[end::-1][:64]):
            expected += int(chunking._GEAR[byte]) << age
        assert int(found[end]) == expected % 2**64


def test_chunks_cover_the_file_within_the_limits(write):
    content = noise(3_000_000) + bytes(1_000_000)
    path = write(content)
    sizes = [size for _, size in chunks(path)]
    assert sum(sizes) == len(content)
    assert all(LEAST <= size <= MOST for size in sizes[:-1])
    assert 20_000 < np.mean(sizes) < MOST
    assert len({digest for digest, _ in chunks(path)}) < len(sizes), "the zeros are cut alike"


def test_borders_do_not_depend_on_how_the_file_is_read(write, monkeypatch):
    path = write(noise(2_000_000))
    expected = list(chunks(path))
    monkeypatch.setattr(chunking, "_BLOCK", 99_991)
    assert list(chunks(path)) == expected


def test_an_insertion_changes_only_the_chunks_around_it(write):
    content = noise(4_000_000)
    place = 1_000_000
    old = list(chunks(write(content)))
    new = list(chunks(write(content[:place] + b"inserted" + content[place:])))
    before = np.searchsorted(np.cumsum([size for _, size in old]), place)
    assert before > 10
    assert new[:before] == old[:before]
    assert new[before] != old[before]
    assert new[-20:] == old[-20:]
    kept = sum(size for chunk, size in new if (chunk, size) in old)
    assert reused_share([write(content[:place] + b"inserted" + content[place:])], [write(content)]) == kept / 4_000_008


def test_shares_at_the_ends(write):
    a, b, empty = write(noise(500_000)), write(noise(500_000, seed=1)), write(b"")
    assert reused_share([a], [a]) == 1
    assert reused_share([a], [b]) == 0
    assert reused_share([a, b], [b]) == 0.5
    assert reused_share([a], []) == 0
    assert reused_share([empty], [a]) == reused_share([], []) == 1
