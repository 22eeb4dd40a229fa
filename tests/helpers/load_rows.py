"""Load published revisions in different ways and write the rows as JSON, with the installed version of datasets.

python load_rows.py REPO OUTPUT.json REVISION...
"""

import json
import sys
from typing import Any

import datasets


def load(repo: str, revision: str) -> dict[str, Any]:
    """Both configurations, normal and streaming, all columns and some of them."""
    found = {}
    for config_name in ("labels", "regions"):
        for streaming in (False, True):
            data = datasets.load_dataset(repo, config_name, split="train", revision=revision, streaming=streaming)
            found[f"{config_name} {streaming}"] = list(data)
            found[f"{config_name} {streaming} names"] = data.features["label"].names
            columns = ["image_id", "regions"] if config_name == "regions" else ["labels", "version"]
            found[f"{config_name} {streaming} columns"] = list(data.select_columns(columns))
    found["default"] = list(datasets.load_dataset(repo, revision=revision)["train"])
    filtered = datasets.load_dataset(repo, "labels", split="train", revision=revision, columns=["scores"])
    found["projected in Parquet"] = list(filtered)
    return found


if __name__ == "__main__":
    name, output, *revisions = sys.argv[1:]
    with open(output, "w") as file:
        json.dump([load(name, revision) for revision in revisions], file)
