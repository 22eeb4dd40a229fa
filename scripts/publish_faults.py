"""Kill `publish` at random moments: the same command finishes it, and readers never see half a version.

    python scripts/publish_faults.py --kills 50 --seed 0

Versions of few files (one commit) and of more than 100 (a pull request in parts, one merge) are published to the tests'
Hub server, each killed until it was killed at most three times, and then published by the same command. Every version
must be file by file that of a repository where nothing was killed. A reader of its own process asks the server for
`main` all the time: each commit that it sees must hold all files of its manifest, with their hashes, and no others.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults import Command

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

KILLED, TWIN = "user/killed", "user/twin"
MAX_KILLS = 3
"""Kills of a version before it may finish."""

SIZES = {"few files": {"images": 30, "rows_per_file": 10}, "many files": {"images": 105, "rows_per_file": 1}}


def main() -> int:
    """Run the trials and print a summary; returns 1 if a version differs or a reader saw half of one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills at random moments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        server = start_server(Path(name))
        try:
            return trials(Path(name), options.kills, random.Random(options.seed))
        finally:
            server.kill()
            server.wait()


def start_server(folder: Path) -> subprocess.Popen[str]:
    """Start the server in a process of its own and make this process, and those that it forks, its clients."""
    command = [sys.executable, str(ROOT / "tests/helpers/hub_server.py"), str(folder / "hub"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    settings = dict(word.split("=", 1) for word in server.stdout.readline().split())
    os.environ.update(settings | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"})
    return server


def trials(folder: Path, count: int, rng: random.Random) -> int:
    """Publish versions until there were so many kills; returns the exit status."""
    # Imported only now: the client reads its address when it is imported.
    from releases import make_release

    from hf_relabel.cli import main as hf_relabel

    def publish(release: Path, version: str, repo_id: str) -> Command:
        asked = ["publish", str(release), repo_id, "--version", version, "--license", "mit"]
        return Command(hf_relabel, asked, folder / "log")

    outcomes: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    reader = Command(watch, [KILLED], folder / "seen")
    number = 0
    while outcomes["killed"] < count:
        kind, version = list(SIZES)[number % 2], f"1.{number}.0"
        release = folder / version
        make_release(release, version, threshold=rng.uniform(0.2, 0.8), **SIZES[kind])
        began = time.monotonic()
        done = publish(release, version, TWIN).wait()
        assert done.status == 0, done.text
        seconds[kind] = time.monotonic() - began
        for _ in range(MAX_KILLS):
            killed = publish(release, version, KILLED).kill_after(rng.uniform(0, seconds[kind]))
            is_killed = killed.status == -signal.SIGKILL
            outcomes["killed" if is_killed else "ended before"] += 1
            outcomes[f"killed, {kind}"] += is_killed
            if not is_killed:
                break
            outcomes["killed with the tag missing"] += f"v{version}" not in refs(KILLED)
        done = publish(release, version, KILLED).wait()
        found = [contents(repo_id, f"v{version}") if done.status == 0 else {} for repo_id in (KILLED, TWIN)]
        differ = sorted(path for path in {*found[0], *found[1]} if found[0].get(path) != found[1].get(path))
        is_same = done.status == 0 and not differ and refs(KILLED)[f"v{version}"] == refs(KILLED)["main"]
        outcomes["equal versions" if is_same else "DIFFERENT"] += 1
        if not is_same:
            print(f"{version}, {kind}: status {done.status}, {differ[:5]}\n{done.text[-2000:]}", flush=True)
        number += 1
    os.kill(reader.pid, signal.SIGTERM)
    reader.wait()
    lines = reader.text.splitlines()
    halves = [line for line in lines if not line.startswith("whole")]
    print(f"{dict(+outcomes)}; a reader saw {len(lines)} commits of main, half a version {len(halves)} times")
    print("\n".join(halves))
    return int(bool(halves) or outcomes["DIFFERENT"] > 0 or not lines)


def refs(repo_id: str) -> dict[str, str]:
    """Commits of the branches and tags; empty for a repository that does not exist."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = HfApi().list_repo_refs(repo_id, repo_type="dataset")
    except RepositoryNotFoundError:
        return {}
    return {ref.name: ref.target_commit for ref in [*found.branches, *found.tags]}


def contents(repo_id: str, revision: str) -> dict[str, str]:
    """The Git id of every file; the card's text without the repository's name, in which two repositories differ."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(repo_id, repo_type="dataset", revision=revision, recursive=True)
    found = {item.path: item.blob_id for item in tree if isinstance(item, RepoFile)}
    card = hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision)
    return found | {"README.md": Path(card).read_text().replace(repo_id, "").replace(repo_id.replace("/", "_"), "")}


def watch(arguments: list[str]) -> int:
    """Ask for `main` until the process is ended; prints whether each commit that it points to is a whole version."""
    seen: set[str] = set()
    while True:
        commit = refs(arguments[0]).get("main")
        if commit is not None and commit not in seen:
            seen.add(commit)
            print(describe(arguments[0], commit), flush=True)
        time.sleep(0.02)


def describe(repo_id: str, commit: str) -> str:
    """What a reader finds at a commit, as a line that starts with `whole` if nothing is missing or left over."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(repo_id, repo_type="dataset", revision=commit, recursive=True)
    files = {item.path: item.lfs.sha256 for item in tree if isinstance(item, RepoFile) and item.lfs}
    data = {path: sha256 for path, sha256 in files.items() if path.startswith("data/")}
    if not data and "README.md" not in files:
        return f"whole {commit}: an empty repository"
    path = hf_hub_download(repo_id, "manifest.json", repo_type="dataset", revision=commit)
    manifest = json.loads(Path(path).read_text())
    expected = {file["path"]: file["sha256"] for file in manifest["files"] if file["config_name"]}
    word = "whole" if expected == data else "HALF"
    return f"{word} {commit}: version {manifest['version']}, {len(data)} of {len(expected)} files"


if __name__ == "__main__":
    sys.exit(main())
