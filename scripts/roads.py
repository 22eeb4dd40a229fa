"""Relabel the same photos by every kind of source, and compare the releases.

    python scripts/roads.py IMAGES MODEL [--images 200] [--size 224] [--out FOLDER]

IMAGES is a folder with a subfolder per class, MODEL a backbone's local folder. The photos are also written as Parquet
files (shuffled, several row groups), WebDataset archives, and a flat folder with a CSV file; a local server stands for
the Hub. All runs must give equal tables. A flat folder's images have other ids, and so another order, in which sums
round differently: its scores may differ by `ROUNDING`.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "helpers")]

PARTS = 3
"""Parquet files and archives."""

ROWS_PER_GROUP = 16

ROUNDING = 1e-5
"""Largest difference of a score between releases of the same images in another order."""


def main() -> int:
    """Run the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("model")
    parser.add_argument("--images", dest="count", type=int, default=200, help="number of photos (default: 200)")
    parser.add_argument("--size", type=int, default=224, help="side of the backbone's input in pixels (default: 224)")
    parser.add_argument("--out", type=Path, help="folder for data and runs; by default a temporary one")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="roads-"))
    out.mkdir(parents=True, exist_ok=True)

    from hub_server import Hub, User

    with Hub(out / "server", {"hf_test": User("owner")}) as hub:
        for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ.pop(key, None)
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
        os.environ |= {"HF_HOME": str(out / "home"), "NO_PROXY": "127.0.0.1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        return compare(options, out, hub)


def compare(options: argparse.Namespace, out: Path, hub: Any) -> int:
    """Write the photos in every form, relabel each, and print a line per road."""
    from hub_datasets import put_folder

    from hf_relabel.cli import main as hf_relabel

    ids = write_all(options.images, options.count, out)
    for kind in ("parquet", "archives"):
        put_folder(hub, f"owner/{kind}", out / kind)
    image_column = Path(ids[0]).suffix[1:]
    web = ["--source.image_column", image_column, "--source.label_column", "json.label"]
    stream = ["--source.streaming", "true"]
    data = ["--source.kind", "dataset", "--source.path"]
    roads = {
        "folder": ["--source.path", str(out / "folder")],
        "Parquet": [*data, str(out / "parquet")],
        "Parquet, streamed": [*data, "owner/parquet", *stream],
        "Hub id": [*data, "owner/parquet"],
        "WebDataset": [*data, "owner/archives", *web],
        "WebDataset, streamed": [*data, "owner/archives", *web, *stream],
        "flat + CSV": ["--source.path", str(out / "flat" / "labels.csv")],
    }
    settings = ["--backbone.model", options.model, "--backbone.image_size", str(options.size), "--propose.tau", "0.3"]
    settings += ["--run.shard_size", "64", "--run.max_error_rate", "0", "--build.threshold", "0.15"]
    settings += ["--build.calibrated", "false", "--train.head", "mlp", "--train.folds", "2", "--train.epochs", "3"]
    releases: dict[str, list[dict[str, Any]]] = {}
    for name, source in roads.items():
        run, started = out / "runs" / name.replace(" ", "-").replace(",", ""), time.monotonic()
        if hf_relabel(["run", *source, *settings, "--run.dir", str(run)]) != 0:
            print(f"{name}: failed", file=sys.stderr)
            return 1
        rows, digest = rows_of(run / "release", ids)
        releases[name] = rows
        labels = sum(len(row["labels"]) for row in rows)
        regions = sum(len(row["regions"]) for row in rows)
        seconds = time.monotonic() - started
        print(f"ROAD {name:22} {len(rows)} images, {labels} labels, {regions} regions, {digest}, {seconds:.0f} s")
    equal = True
    for name, rows in releases.items():
        difference = largest_difference(releases["folder"], rows)
        if difference is None or difference > (ROUNDING if name.startswith("flat") else 0):
            equal = False
            print(f"{name} differs from folder: {'labels or masks' if difference is None else f'scores, {difference}'}")
    print("ROADS are equal" if equal else "ROADS differ")
    return 0 if equal else 1


def write_all(images: Path, count: int, out: Path) -> list[str]:
    """Write `folder`, `parquet`, `archives` and `flat` below `out`; returns the image ids of the folder."""
    import datasets
    import numpy as np
    import pyarrow.parquet as pq

    paths = sorted(path for path in images.rglob("*") if path.is_file())
    paths = paths[:: max(1, len(paths) // count)][:count]
    ids = [path.relative_to(images).as_posix() for path in paths]
    for name in ("folder", "parquet", "archives", "flat"):
        (out / name).mkdir()
    lines = ["file_name,label\n"]
    for path, image_id in zip(paths, ids, strict=True):
        (out / "folder" / image_id).parent.mkdir(exist_ok=True)
        shutil.copy(path, out / "folder" / image_id)
        shutil.copy(path, out / "flat" / path.name)
        lines.append(f"{path.name},{image_id.split('/')[0]}\n")
    (out / "flat" / "labels.csv").write_text("".join(lines))

    classes = sorted({image_id.split("/")[0] for image_id in ids})
    order = np.random.default_rng(0).permutation(len(ids)).tolist()
    rows = [(ids[place], paths[place].read_bytes()) for place in order]
    for part in range(PARTS):
        some = rows[part::PARTS]
        columns = {
            "image": [{"bytes": content, "path": image_id} for image_id, content in some],
            "label": [classes.index(image_id.split("/")[0]) for image_id, _ in some],
        }
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        table = datasets.Dataset.from_dict(columns, features=features).with_format("arrow")[:]
        table = table.replace_schema_metadata(features.arrow_schema.metadata)
        pq.write_table(
            table, out / "parquet" / f"train-{part:05d}-of-{PARTS:05d}.parquet", row_group_size=ROWS_PER_GROUP
        )
        with tarfile.open(out / "archives" / f"train-{part:05d}.tar", "w") as archive:
            for image_id, content in some:
                label = json.dumps({"label": image_id.split("/")[0]}).encode()
                stem = image_id.rpartition(".")[0]
                for file, value in ((image_id, content), (f"{stem}.json", label)):
                    member = tarfile.TarInfo(file)
                    member.size = len(value)
                    archive.addfile(member, io.BytesIO(value))
    return ids


def rows_of(folder: Path, ids: list[str]) -> tuple[list[dict[str, Any]], str]:
    """The rows of a release and a hash of them, in which a flat folder's ids are the folder's."""
    from hf_relabel.release.reader import Release

    release = Release.open(folder)
    known = {Path(image_id).name: image_id for image_id in ids}
    rows = list(release.rows("regions"))
    for row in rows:
        short, row["image_id"] = row["image_id"], known[Path(row["image_id"]).name]
        for region in row["regions"]:
            region["region_id"] = region["region_id"].replace(short, row["image_id"], 1)
    rows.sort(key=lambda row: row["image_id"])
    for row in rows:
        row["class_names"] = release.class_names
    content = json.dumps(rows, sort_keys=True, default=str)
    return rows, hashlib.sha256(content.encode()).hexdigest()[:12]


def largest_difference(one: Any, other: Any) -> float | None:
    """The largest difference of two numbers at the same place of nested values; None if anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    if isinstance(one, dict) and isinstance(other, dict) and sorted(one) == sorted(other):
        one, other = [one[key] for key in sorted(one)], [other[key] for key in sorted(other)]
    if not isinstance(one, list) or not isinstance(other, list):
        return 0.0 if one == other else None
    if len(one) != len(other):
        return None
    found = [largest_difference(a, b) for a, b in zip(one, other, strict=True)]
    return None if None in found else max((value for value in found if value is not None), default=0.0)


if __name__ == "__main__":
    sys.exit(main())
