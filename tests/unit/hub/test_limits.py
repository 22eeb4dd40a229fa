"""The Hub's limits on files, from whatever version of its client is installed."""

import sys
from types import ModuleType

import huggingface_hub
import pytest

from hf_relabel.errors import HubError
from hf_relabel.hub.client import RemoteFile
from hf_relabel.hub.files import PlannedFile, planned_bytes
from hf_relabel.hub.limits import check_limits, hub_limits

MODULE = "huggingface_hub._upload_large_folder"


@pytest.fixture
def client(monkeypatch) -> ModuleType:
    """The client's module with the limits, as its versions 1.x have it."""
    module = ModuleType(MODULE)
    module.MAX_FILES_PER_REPO, module.MAX_FILES_PER_FOLDER = 300, 200
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


def test_limits_of_the_client_come_before_the_documented_ones(client):
    limits = hub_limits()
    assert (limits.files, limits.files_per_folder) == (300, 200)
    assert limits.file_bytes == huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE
    client.MAX_FILES_PER_REPO = "many"  # the module is not public
    del client.MAX_FILES_PER_FOLDER
    assert (hub_limits().files, hub_limits().files_per_folder) == (100_000, 10_000)


def test_a_client_without_limits(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)  # as in versions 2.x, where importing it fails
    assert (hub_limits().files, hub_limits().files_per_folder) == (100_000, 10_000)


def test_more_files_than_a_commit_takes_go_to_main_only():
    files = [planned_bytes(f"data/regions/train-{index:05d}.parquet", b"") for index in range(101)]
    with pytest.raises(HubError, match="rows_per_file"):
        check_limits(files, {}, files, [], "next")
    check_limits(files, {}, files[:100], [], "next")
    check_limits(files, {}, files, [], "main")


@pytest.mark.parametrize("count", [199, 200])
def test_a_folder_has_fewer_files_than_the_limit(client, count):
    remote = {f"docs/{index}": RemoteFile(1, "", None) for index in range(count - 1)}
    files = [planned_bytes("docs/new", b"")]
    if count < 200:
        check_limits(files, remote, files, [], "main")
        return
    with pytest.raises(HubError, match="docs: 200 files; the Hub takes fewer than 200 per folder"):
        check_limits(files, remote, files, [], "main")
    check_limits(files, remote, files, ["docs/0"], "main")  # one is removed


def test_more_files_than_a_repository_takes(client):
    remote = {f"docs-{index % 2}/{index}": RemoteFile(1, "", None) for index in range(301)}
    with pytest.raises(HubError, match="the repository would have 301 files; the Hub allows 300"):
        check_limits([], remote, [], [], "main")


@pytest.mark.parametrize(("path", "size"), [
    ("data/regions/train-00000-of-00001-0123456789abcdef.parquet", 500_000_001), ("notes.bin", 50_000_000_001),
])  # fmt: skip
def test_larger_files(path, size):
    files = [PlannedFile(path, b"", size, "")]
    with pytest.raises(HubError, match=rf"{path}: {size:,} bytes, at most {size - 1:,}"):
        check_limits(files, {}, files, [], "main")
    files = [PlannedFile(path, b"", size - 1, "")]
    check_limits(files, {}, files, [], "main")
