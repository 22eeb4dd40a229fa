"""Edit an export of a release on a real Label Studio server, by its API.

    python edit_in_label_studio.py EXPORT EDITED.json      runs in an environment with label-studio

EXPORT is the folder of `hf-relabel export label-studio`; EDITED.json is what the project's export as JSON contains. In
the first image, the region and the label of a dog become a cow; in the second, both are removed; the third gets the
label and the region of a tree; the fourth is submitted as it is, and the submission of the fifth is deleted.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy

PORT, TOKEN = 18081, "0123456789abcdef0123456789abcdef01234567"


def call(method: str, path: str, value: Any = None) -> Any:
    """Send a request to the server; returns the JSON of its answer."""
    headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def start(folder: str) -> subprocess.Popen:
    """Start a server with an empty database, and wait until it answers."""
    command = [str(Path(sys.executable).with_name("label-studio")), "start", "--no-browser", "--data-dir", folder]
    command += ["--port", str(PORT), "--internal-host", "127.0.0.1", "--user-token", TOKEN]
    command += ["--username", "ada@example.org", "--password", "a-password-123"]
    environment = os.environ | {"HOME": folder, "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"}
    environment |= {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true"}
    with open(Path(folder) / "server.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    for _ in range(600):  # an empty database is filled first
        time.sleep(1)
        try:
            call("GET", "/api/projects")
            return server
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None:
                break
    server.kill()
    raise SystemExit((Path(folder) / "server.log").read_text()[-3000:])


def edit(number: int, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of an image as a person leaves them."""
    kind = next((item["type"] for item in results if item["type"].endswith("labels")), "brushlabels")
    kept = []
    for item in results:
        value = item["value"]
        for key in ("choices", kind):
            if number == 0:
                value |= {key: ["cow" if name == "dog" else name for name in value[key]]} if key in value else {}
            elif number == 1 and key in value:
                value[key] = [name for name in value[key] if name != "dog"]
            elif number == 2 and key == "choices" and key in value:
                value[key] = [*value[key], "tree"]
        if all(value.get(key, True) for key in ("choices", kind)):
            kept.append(item)
    if number == 2:
        kept.append(tree(kind, next(item for item in results if item["type"] == kind)))
    return kept


def tree(kind: str, other: dict[str, Any]) -> dict[str, Any]:
    """A new region in the upper right corner, like another one."""
    width, height = other["original_width"], other["original_height"]
    if kind == "polygonlabels":
        value = {"points": [[70, 0], [95, 0], [95, 20], [70, 20]], "closed": True}
    else:
        from label_studio_sdk.converter.brush import mask2rle

        mask = numpy.zeros((height, width), numpy.uint8)
        mask[: height // 5, width * 7 // 10 :] = 255
        value = {"format": "rle", "rle": mask2rle(mask)}
    return {**other, "id": "new-tree", "value": {**value, kind: ["tree"]}}


def main(export: Path, edited: Path) -> None:
    """Make a project, edit it, and export it."""
    config = (export / "label_config.xml").read_text()
    project = call("POST", "/api/projects", {"title": "relabel", "label_config": config})["id"]
    call("POST", f"/api/projects/{project}/import", json.loads((export / "tasks.json").read_text()))
    tasks = call("GET", f"/api/tasks?project={project}&page_size=100&fields=all")["tasks"]
    tasks.sort(key=lambda task: task["data"]["image_id"])
    for number, task in enumerate(tasks):
        [prediction] = call("GET", f"/api/tasks/{task['id']}")["predictions"]
        submitted = {"result": prediction["result"], "parent_prediction": prediction["id"]}
        annotation = call("POST", f"/api/tasks/{task['id']}/annotations", submitted)["id"]
        if number < 3:
            call("PATCH", f"/api/annotations/{annotation}", {"result": edit(number, prediction["result"])})
        elif number == 4:
            call("DELETE", f"/api/annotations/{annotation}")
    edited.write_text(
        json.dumps(call("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"))
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as data:
        server = start(data)
        try:
            main(Path(sys.argv[1]), Path(sys.argv[2]))
        finally:
            server.terminate()
            server.wait(30)
