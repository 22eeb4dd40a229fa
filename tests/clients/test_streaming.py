"""A run on a dataset that is streamed from the Hub: resumed without reading what is done, one line when it is away."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from commands import config_of
from hub_datasets import put_files
from hub_environment import TIMEOUT, environment
from hub_server import Fault
from worker import Done

from hf_relabel.run.store import read_record

PER_FILE = 4
"""Images per Parquet file, as many as in a shard of the run."""


@pytest.fixture
def photos(hub, repo_id, image_folder) -> tuple[str, str]:
    """12 images in three Parquet files, in the order of their ids: the repository and its commit."""
    paths = sorted(image_folder.rglob("*.png"))
    files = {}
    for number in range(0, len(paths), PER_FILE):
        some = paths[number : number + PER_FILE]
        cells = [{"bytes": path.read_bytes(), "path": f"{path.parent.name}/{path.name}"} for path in some]
        data = datasets.Dataset.from_dict({"image": cells, "label": [path.parent.name for path in some]})
        file = io.BytesIO()
        data.cast_column("image", datasets.Image()).to_parquet(file)
        files[f"data/train-{number // PER_FILE}.parquet"] = file.getvalue()
    return repo_id, put_files(hub, repo_id, files)


@pytest.fixture
def propose(hub, tmp_path, photos, tiny_dinov3):
    """Run `propose` on the streamed dataset in a process of its own."""
    source = {"kind": "dataset", "path": photos[0], "streaming": True, "id_from": "row"}
    config = config_of(tmp_path, Path(photos[0]), tiny_dinov3, source=source, run={"dir": str(tmp_path / "run")})

    def run() -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "hf_relabel", "propose", "--config", config],
            env=environment(hub, tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def read_files(hub) -> list[str]:
    """The data files whose content was asked for since the record was cleared."""
    asked = {path.rsplit("/", 1)[1] for route, method, path in hub.requests if (route, method) == ("resolve", "GET")}
    hub.requests.clear()
    return sorted(name for name in asked if name.endswith(".parquet"))


@pytest.mark.slow
def test_a_run_is_resumed_without_reading_what_is_done(hub, propose, photos, tmp_path):
    assert propose().ok()
    run = tmp_path / "run"
    assert read_files(hub) == ["train-0.parquet", "train-1.parquet", "train-2.parquet"]
    assert not list((tmp_path / "home").rglob("*.parquet")), "nothing is downloaded to the disk"
    before = (run / "proposals" / "shard-00001.parquet").read_bytes()
    (run / "proposals" / "manifest.json").unlink()
    for path in (run / "proposals").glob("shard-00001*"):
        path.unlink()
    assert propose().ok()
    assert read_files(hub) == ["train-1.parquet"]
    assert (run / "proposals" / "shard-00001.parquet").read_bytes() == before
    record = read_record(run / "source.json")
    assert record["images"] == 12
    assert record["settings"]["commit"] == photos[1]
    assert propose().ok()
    assert read_files(hub) == []


@pytest.mark.slow
def test_a_file_that_the_hub_refuses_is_named_in_one_line(hub, propose, photos):
    hub.faults.append(Fault("resolve", status=403, skip=5, times=50))
    message = propose().error()
    assert f"hf://datasets/{photos[0]}@" in message
    assert "train-0.parquet: cannot be read (403 Forbidden" in message
    assert "the same command resumes" in message


def in_a_process(hub, home, repo_id, code: str, **settings) -> int:
    """Run code with a streamed `source` in a process of its own; returns the bytes of files that it was sent."""
    opened = f"source = open_source(SourceConfig('dataset', {repo_id!r}, streaming=True, **{settings!r}))"
    imports = "from hf_relabel.config import SourceConfig; from hf_relabel.sources.source import open_source"
    before = hub.sent
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; {opened}; {code}"],
        env=environment(hub, home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stdout == "50\n", done.stderr
    return hub.sent - before


@pytest.mark.slow
def test_listing_does_not_read_the_images(hub, repo_id, tmp_path):
    generator = np.random.default_rng(0)
    cells = [{"bytes": generator.bytes(100_000), "path": f"{number:02d}.jpg"} for number in range(50)]
    data = datasets.Dataset.from_dict({"image": cells, "label": ["cat", "dog"] * 25})
    file = io.BytesIO()
    data.cast_column("image", datasets.Image()).to_parquet(file, batch_size=10)
    put_files(hub, repo_id, {"data/train-0.parquet": file.getvalue()})
    assert in_a_process(hub, tmp_path, repo_id, "print(len(source))") < len(file.getvalue()) / 4


@pytest.mark.slow
def test_one_image_of_an_archive_is_read_alone(hub, repo_id, tmp_path):
    generator, file = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(50):
            for suffix, content in (("jpg", generator.bytes(100_000)), ("json", b'{"label": "cat"}')):
                member = tarfile.TarInfo(f"{number:02d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    put_files(hub, repo_id, {"train-0.tar": file.getvalue()})
    columns = {"image_column": "jpg", "label_column": "json.label"}
    listing = in_a_process(hub, tmp_path, repo_id, "print(len(source))", **columns)
    read = "[list(source.read(range(place, place + 1))) for place in (3, 30)]"
    more = in_a_process(hub, tmp_path, repo_id, f"{read}; print(len(source))", **columns) - listing
    assert 200_000 <= more < 500_000, "an archive has no index, so listing reads all of it; an image needs little more"
