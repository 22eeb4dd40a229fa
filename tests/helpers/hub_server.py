"""A server with the part of the Hub's HTTP interface that publishing and loading use, over real sockets.

    python tests/helpers/hub_server.py FOLDER [--port 8000]     then: HF_ENDPOINT=http://127.0.0.1:8000 ...

The official clients connect to it through HF_ENDPOINT (with HF_HUB_DISABLE_XET=1). `Hub.faults` adds faults.
"""

import argparse
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hub_routes import Routes
from hub_store import Repo, Store
from hub_values import LICENSES


@dataclass
class Fault:
    """A fault at one route.

    Args:
        route: Name in `hub_routes.ROUTES`.
        action: `status` answers with an error and does nothing; `cut` reads part of the body and drops the connection;
            `lose` carries out the request and drops the connection; `hang` reads the body and never answers.
        status: The error of `status`.
        headers: Its headers.
        body: Its JSON body.
        skip: Number of requests that succeed first.
        times: Number of requests that fail.
    """

    route: str
    action: str = "status"
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = field(default_factory=lambda: {"error": "the server is busy"})
    skip: int = 0
    times: int = 1


@dataclass
class User:
    """The owner of a token, the token's role, and the owner's role in organizations."""

    name: str
    role: str = "write"
    organizations: dict[str, str] = field(default_factory=dict)

    def may_write(self, owner: str) -> bool:
        """Whether the token may write to the repositories of a user or an organization."""
        return self.role != "read" and (owner == self.name or self.organizations.get(owner) in ("write", "admin"))


class Hub:
    """The server and its switches. Use as a context manager; `endpoint` is the value for HF_ENDPOINT.

    Args:
        root: Folder of the repositories.
        tokens: User of each token.
        port: 0 picks a free one.
    """

    def __init__(self, root: Path, tokens: dict[str, User], port: int = 0):
        self.store = Store(root)
        self.tokens = tokens
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str]] = []  # route, method, path
        self.sent = 0  # bytes of files
        self.licenses = sorted(LICENSES)
        self.jobs: list[dict[str, Any]] = []  # what jobs were asked to be
        self.before: dict[str, Callable[[], None]] = {}  # called once, at the next request of a route
        self.reached = threading.Event()  # set when a fault `hang` has begun
        self.closing = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (Routes,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def repo(self, repo_id: str) -> Repo:
        """A repository by its id."""
        return self.store.repos[repo_id]

    def count(self, route: str) -> int:
        """Number of requests of a route."""
        return sum(name == route for name, _, _ in self.requests)

    def take_fault(self, route: str) -> Fault | None:
        """The fault for this request of a route, if there is one; counts it down."""
        with self._lock:
            for fault in self.faults:
                if fault.route == route and fault.skip:
                    fault.skip -= 1
                elif fault.route == route and fault.times:
                    fault.times -= 1
                    return fault
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--user", default="user", help="the one user; its token is hf_test")
    options = parser.parse_args()
    with Hub(options.folder, {"hf_test": User(options.user)}, options.port) as server:
        print(f"HF_ENDPOINT={server.endpoint} HF_TOKEN=hf_test HF_HUB_DISABLE_XET=1", flush=True)
        threading.Event().wait()
