"""Dataset repositories in a folder, for the test server of the Hub.

<root>/<user>/<name>/repo.json        private, refs, pull requests, commits with their file tables
<root>/<user>/<name>/objects/<sha256> contents, both of LFS and of regular files
"""

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REGULAR_LIMIT = 10_000_000
LFS_SUFFIXES = (".parquet", ".png", ".arrow", ".jpg")


class Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class File:
    """A file of a commit."""

    sha256: str
    size: int
    oid: str  # git blob id: of the content, or of the pointer of an LFS file
    lfs: bool

    def info(self, path: str) -> dict[str, Any]:
        """The entry in the responses of tree and paths-info."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """One dataset repository. Every change is written to `repo.json` before the response."""

    folder: Path
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    discussions: dict[str, dict[str, Any]] = field(default_factory=dict)
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def load(cls, folder: Path) -> "Repo":
        """Read a repository of an earlier server."""
        return cls(folder, **json.loads((folder / "repo.json").read_text()))

    def save(self) -> None:
        """Write `repo.json`, atomically."""
        state = {key: getattr(self, key) for key in ("private", "branches", "tags", "pulls", "discussions", "commits")}
        temporary = self.folder / "repo.json.tmp"
        temporary.write_text(json.dumps(state))
        os.replace(temporary, self.folder / "repo.json")

    @property
    def id(self) -> str:
        """`user/name`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def resolve(self, revision: str) -> str:
        """The commit of a branch, tag, pull request or commit id."""
        for refs in (self.branches, self.tags):
            if revision in refs:
                return refs[revision]
        if revision in self.pulls:
            return self.pulls[revision]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision: str) -> dict[str, File]:
        """The files of a revision by path."""
        return {path: File(**entry) for path, entry in self.commits[self.resolve(revision)]["files"].items()}

    def object_path(self, sha256: str) -> Path:
        """Path of a content."""
        return self.folder / "objects" / sha256

    def store(self, content: bytes) -> str:
        """Store a content and return its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.object_path(sha256).write_bytes(content)
        return sha256

    def read(self, revision: str, path: str) -> bytes:
        """The content of a file."""
        return self.object_path(self.files(revision)[path].sha256).read_bytes()

    def commit(self, branch: str, lines: list[dict[str, Any]], create_pr: bool) -> tuple[str, str | None]:
        """Apply a commit's ndjson lines; returns the commit id and the pull request's ref."""
        with self.lock:
            header = lines[0]["value"]
            head = self.resolve(branch)
            if header.get("parentCommit") not in (None, head):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self.commits[head]["files"])
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            number = len(self.commits)
            text = json.dumps([number, head, header["summary"], files], sort_keys=True)
            oid = hashlib.sha1(text.encode()).hexdigest()
            self.commits[oid] = {"parent": head, "summary": header["summary"], "files": files}
            pull = f"refs/pr/{len(self.pulls) + 1}" if create_pr else None
            if pull:
                self.pulls[pull] = oid
            elif branch in self.branches:
                self.branches[branch] = oid
            elif branch in self.pulls:
                self.pulls[branch] = oid
            else:
                raise Refused(400, f"{branch} is not a branch")
            self.save()
            return oid, pull

    def open_pull(self, title: str, author: str) -> int:
        """Start a pull request, as a draft at the head of main; returns its number."""
        with self.lock:
            number = len(self.pulls) + 1
            self.pulls[f"refs/pr/{number}"] = self.branches["main"]
            self.discussions[str(number)] = {
                "title": title,
                "author": author,
                "status": "draft",
                "base": self.branches["main"],
            }
            self.save()
            return number

    def merge(self, number: str) -> None:
        """Apply the changes of a pull request to main, in one commit; a file changed on both sides is a conflict."""
        with self.lock:
            discussion = self.discussions[number]
            if discussion["status"] != "open":
                raise Refused(400, f"This pull request is {discussion['status']}")
            base = self.commits[discussion["base"]]["files"]
            head = self.commits[self.pulls[f"refs/pr/{number}"]]["files"]
            files = dict(self.commits[self.branches["main"]]["files"])
            for path in base.keys() | head.keys():
                if base.get(path) == head.get(path):
                    continue
                if files.get(path) != base.get(path):
                    raise Refused(409, f"{path} has conflicts")
                files.pop(path, None)
                files |= {path: head[path]} if path in head else {}
            text = json.dumps([len(self.commits), discussion["title"], files], sort_keys=True)
            oid = hashlib.sha1(text.encode()).hexdigest()
            parent = self.branches["main"]
            self.commits[oid] = {"parent": parent, "summary": discussion["title"], "files": files}
            self.branches["main"] = oid
            discussion["status"] = "merged"
            self.save()

    def _apply(self, files: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        import base64

        path = value["path"]
        if key == "file":
            content = base64.b64decode(value["content"])
            files[path] = {"sha256": self.store(content), "size": len(content), "oid": blob_id(content), "lfs": False}
        elif key == "lfsFile":
            if not self.object_path(value["oid"]).exists():
                raise Refused(400, f"LFS object {value['oid']} was never uploaded")
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
            oid = blob_id(pointer.encode())
            files[path] = {"sha256": value["oid"], "size": value["size"], "oid": oid, "lfs": True}
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        else:
            raise Refused(400, f"unknown operation {key}")


class Store:
    """All repositories in a folder."""

    def __init__(self, root: Path):
        self.root = root
        self.repos: dict[str, Repo] = {}
        for state in root.glob("*/*/repo.json"):
            repo = Repo.load(state.parent)
            self.repos[repo.id] = repo

    def create(self, repo_id: str, private: bool = False) -> Repo:
        """Create a repository with its first commit."""
        if repo_id in self.repos:
            raise Refused(409, "You already created this dataset repo")
        repo = Repo(self.root / repo_id, private)
        (repo.folder / "objects").mkdir(parents=True)
        content = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
        first = {"sha256": repo.store(content), "size": len(content), "oid": blob_id(content), "lfs": False}
        oid = hashlib.sha1(repo_id.encode()).hexdigest()
        repo.commits[oid] = {"parent": None, "summary": "initial commit", "files": {".gitattributes": first}}
        repo.branches["main"] = oid
        repo.save()
        self.repos[repo_id] = repo
        return repo


def blob_id(content: bytes) -> str:
    """The git id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
