"""Datasets of images on the test server of the Hub."""

import base64
from pathlib import Path

from hub_server import Hub


def put_files(hub: Hub, repo_id: str, files: dict[str, bytes], tag: str | None = None) -> str:
    """Commit files to a repository, which is created if there is none; returns the commit."""
    repo = hub.store.repos.get(repo_id) or hub.store.create(repo_id)
    lines = [{"key": "header", "value": {"summary": "files"}}]
    for path, content in files.items():
        if path.endswith(".md"):
            lines.append({"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode()}})
        else:
            stored = {"path": path, "oid": repo.store(content), "size": len(content)}
            lines.append({"key": "lfsFile", "value": stored})
    commit, _ = repo.commit("main", lines, create_pr=False)
    if tag is not None:
        repo.tags[tag] = commit
        repo.save()
    return commit


def put_folder(hub: Hub, repo_id: str, folder: Path, tag: str | None = None) -> str:
    """Commit all files below a folder; returns the commit."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return put_files(hub, repo_id, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, tag)
