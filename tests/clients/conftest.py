"""A test server of the Hub, and processes with the official clients that talk to it."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_environment import TIMEOUT, environment
from hub_server import Hub, User
from releases import make_release
from worker import Done, Worker

from hf_relabel.release.reader import Release

TOKENS = {
    "hf_owner_secret": User("owner"),
    "hf_reader_secret": User("owner", role="read"),
    "hf_stranger_secret": User("stranger"),
    "hf_member_secret": User("member", organizations={"readers": "read", "Writers": "write"}),
}


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("hub"), TOKENS) as hub:
        yield hub


@pytest.fixture
def hub(_server: Hub) -> Hub:
    """The test server without faults and with a clean record; repositories of other tests stay."""
    _server.faults.clear()
    _server.before.clear()
    _server.reached.clear()
    _server.requests.clear()
    return _server


@pytest.fixture(scope="session")
def _worker(_server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(environment(_server, tmp_path_factory.mktemp("home")), list(TOKENS), TIMEOUT)
    yield worker
    worker.close()


@pytest.fixture
def hf_relabel(_worker: Worker) -> Callable[..., Done]:
    """Run a command with the owner's token."""
    return _worker.run


@pytest.fixture
def command(hub: Hub, tmp_path: Path) -> Callable[..., Done]:
    """Run a command in a process of its own: `token=None` for none, `env={...}` for more environment."""

    def run(*arguments: object, token: str | None = "hf_owner_secret", env: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "hf_relabel", *map(str, arguments)],
            env=environment(hub, tmp_path / "home", token, **(env or {})),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        for secret in TOKENS:
            assert secret not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


_numbers = itertools.count()


@pytest.fixture
def repo_id() -> str:
    """A name that no other test uses."""
    return f"owner/tiny-{next(_numbers)}"


@pytest.fixture(scope="session")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Version 1.0.0: three shards of regions. Not to be changed."""
    return make_release(tmp_path_factory.mktemp("v1") / "release", "1.0.0")


@pytest.fixture(scope="session")
def v2(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Version 1.1.0: a higher threshold, and all regions in one shard. Not to be changed."""
    return make_release(tmp_path_factory.mktemp("v2") / "release", "1.1.0", threshold=0.7, rows_per_file=100)
