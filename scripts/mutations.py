"""Broken and hostile inputs from a seed, for `scripts/campaign.py`: images, label maps, releases, COCO files, models.

Each function changes what is in a folder or returns changed content, and says what was done in a few words.
"""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_relabel.release.layout import MANIFEST
from hf_relabel.run.store import sha256_of

DEEP = "[" * 100_000 + "]" * 100_000

VALUES: list[Any] = [
    None, True, 0, -1, 5, 2**31, 2**63, 10**400, 1.5, -0.5, float("nan"), float("inf"), "", "x", "../../etc/passwd",
    "a\nb", "a\x00b", [], {}, [None], ["x"], {"x": 1}, [[]], [0, 0, 0, 0, 0],
]  # fmt: skip
"""Values to put where others are expected."""


def mutate_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Flip, remove, insert, overwrite or repeat bytes of a file."""
    data = bytearray(content or b"empty")
    start = rng.randrange(max(1, len(data)))
    length = min(len(data) - start, 1 << rng.randrange(10))
    kind = rng.choice(["flip", "truncate", "remove", "insert", "zeros", "ones", "repeat", "size", "empty", "head"])
    if kind == "flip":
        for _ in range(rng.choice([1, 3, 20])):
            place = rng.randrange(8 * max(1, len(data)))
            data[place // 8] ^= 1 << place % 8
    elif kind == "truncate":
        del data[start:]
    elif kind == "remove":
        del data[start : start + length]
    elif kind == "insert":
        data[start:start] = rng.randbytes(length)
    elif kind in ("zeros", "ones"):
        data[start : start + length] = bytes([0 if kind == "zeros" else 255]) * length
    elif kind == "repeat":
        data[start:start] = data[start : start + length]
    elif kind == "size":  # a number of 4 bytes near the head, where formats have widths, heights and lengths
        struct.pack_into(">I", data, rng.randrange(max(1, min(64, len(data) - 4))), rng.choice([0, 2**31 - 1, 70000]))
    elif kind == "empty":
        data.clear()
    else:
        data[: min(16, len(data))] = rng.randbytes(min(16, len(data)))
    return bytes(data), kind


def mutate_json(tree: Any, rng: random.Random) -> tuple[str, str]:
    """Replace, remove or repeat one value in a tree of JSON values; returns the text."""
    places: list[tuple[Any, Any, str]] = []

    def walk(node: Any, path: str) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key, f"{path}.{key}"))
            walk(value, f"{path}.{key}")

    walk(tree, "")
    # Short paths are rare among all, and matter most.
    depth = rng.randrange(1, 6)
    holder, key, path = rng.choice([place for place in places if place[2].count(".") <= depth])
    kind = rng.choice(["replace"] * 6 + ["remove", "repeat", "deep"])
    if kind == "remove" or (kind == "repeat" and not isinstance(holder, list)):
        del holder[key]
        kind = "remove"
    elif kind == "repeat":
        holder.append(holder[key])
    elif kind == "deep":
        holder[key] = "DEEP"
    else:
        before = holder[key]
        holder[key] = rng.choice([value for value in VALUES if isinstance(value, bool) or value != before])
        kind = f"= {holder[key]!r}"[:60]
    return json.dumps(tree).replace('"DEEP"', DEEP), f"{path} {kind}"


def read_manifest(release: Path) -> dict[str, Any]:
    """The manifest of a release folder."""
    return json.loads((release / MANIFEST).read_text())


def write_manifest(release: Path, manifest: Any) -> None:
    """Write a manifest with the sizes and hashes that its files have now."""
    for entry in manifest["files"]:
        path = release / str(entry["path"])
        if path.is_file():
            entry |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (release / MANIFEST).write_text(json.dumps(manifest))


def tamper_manifest(release: Path, rng: random.Random) -> tuple[str, bool]:
    """Change one value of the manifest; refused unless it is in the provenance or the display name."""
    text, what = mutate_json(read_manifest(release), rng)
    (release / MANIFEST).write_text(text)
    return f"manifest {what}", not what.startswith((".provenance", ".name"))


def tamper_rows(release: Path, rng: random.Random) -> tuple[str, bool]:
    """Change one value of a row, a column or the schema of a data file, with hashes made again."""
    manifest = read_manifest(release)
    entry = rng.choice([entry for entry in manifest["files"] if entry["config_name"]])
    path = release / entry["path"]
    table = pq.read_table(path)
    kind = rng.choice(["value"] * 8 + ["drop", "type", "rows", "order", "twice", "names", "metadata", "truncate"])
    name = rng.choice(table.column_names)
    place = table.column_names.index(name)
    what = f"{entry['config_name']}: {kind} {name}"
    if kind == "value":
        rows = table.to_pylist()
        row = rng.choice([row for row in rows if row.get("regions", True)])
        what = f"{entry['config_name']}: {_change_row(row, rng)}"
        table = pa.Table.from_pylist(rows, table.schema)
    elif kind == "drop":
        table = table.drop_columns(name)
    elif kind == "type":
        table = table.set_column(place, name, pa.array([rng.choice(["x", 3, True])] * len(table)))
    elif kind == "rows":
        table = table.slice(0, rng.choice([0, len(table) - 1]))
        entry["rows"] = len(table) if rng.random() < 0.5 else entry["rows"]
    elif kind == "order":
        table = table.take(list(reversed(range(len(table)))))
    elif kind == "twice":
        table = pa.concat_tables([table, table])
        entry["rows"] *= 2
    elif kind == "names":
        features = json.loads(table.schema.metadata[b"huggingface"])
        features["info"]["features"]["label"]["names"].reverse()
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    elif kind == "metadata":
        table = table.replace_schema_metadata(rng.choice([None, {"huggingface": "junk"}, {"huggingface": "{}"}]))
    pq.write_table(table, path)
    if kind == "truncate":
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    write_manifest(release, manifest)
    return what, True


def _change_row(row: dict[str, Any], rng: random.Random) -> str:
    """Put a value that is not valid in a row."""
    changes: list[tuple[str, list[Any]]] = [
        ("image_id", [None, "", "../../etc/passwd", "/etc/passwd", "a\nb", "zz\x00"]),
        ("label", [-1, 99, 2**31 - 1]),
        ("labels", [None, [-1], [99], [None], [0] * 50, [0, 0]]),
        ("scores", [None, [], [1.5], [float("nan")], [None], [-0.1], [0.5] * 50]),
        ("label_score", [-1.0, 1.5, float("nan")]),
        ("version", [None, "9.9.9"]),
    ]
    regions = [
        ("label", [None, -1, 99]),
        ("score", [None, float("inf"), -1.0, 2.0]),
        ("top_labels", [None, [-1], [99, 99]]),
        ("top_scores", [None, [], [7.0]]),
        ("bbox", [None, [], [0.0] * 3, [float("nan")] * 4, [-1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 1e9, 1e9]]),
        ("area", [None, -1, 2**62]),
        ("region_id", [None]),
        ("segmentation", [None, {"size": [2**31 - 1] * 2, "counts": "0"}]),
        ("counts", [None, "", "\x7f", "é", "oooooooooooooo", "0" * 99, "PPYo1`0" * 40]),
        ("size", [None, [], [5], [2**31 - 1] * 2, [1, 1, 1], [-5, -5]]),
    ]
    if "regions" in row:
        changes += [("width", [None, -1, 2**31 - 1, 1]), ("height", [None, -1, 2**31 - 1, 1]), ("regions", [None])]
    if row.get("regions") and rng.random() < 0.6:
        region = rng.choice(row["regions"])
        key, values = rng.choice(regions)
        value = rng.choice(values)
        (region["segmentation"] if key in ("counts", "size") else region)[key] = value
        return f"region {key} = {value!r}"[:60]
    key, values = rng.choice(changes)
    row[key] = rng.choice(values)
    return f"{key} = {row[key]!r}"[:60]


def tamper_files(release: Path, rng: random.Random) -> tuple[str, bool]:
    """Replace, remove or add a file, or list another one."""
    manifest = read_manifest(release)
    entry = rng.choice(manifest["files"])
    path = release / entry["path"]
    kind = rng.choice(list(FILE_FAULTS))
    FILE_FAULTS[kind](release, manifest, entry, path, rng)
    return f"{kind} {entry['path'].split('/')[0]}", True


def _fifo(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _gone(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    path.unlink()


def _folder(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link_outside(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    outside = release.parent / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _folder_link_outside(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    outside = release.parent / "outside-data"
    shutil.rmtree(outside, ignore_errors=True)
    shutil.move(release / "data", outside)
    (release / "data").symlink_to(outside)


def _other_file(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    name = rng.choice([".git/config", "run.sh", "scripts/load_relabel.py", "data/labels/x.py", "README.md"])
    (release / name).parent.mkdir(parents=True, exist_ok=True)
    (release / name).write_text("junk")
    config_name = rng.choice([None, "labels"])
    manifest["files"].append({"path": name, "config_name": config_name, "rows": 1, "bytes": 0, "sha256": ""})
    write_manifest(release, manifest)


def _twice(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    manifest["files"].append(dict(entry))
    write_manifest(release, manifest)


def _no_files(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    name = rng.choice([None, "labels", "regions"])
    manifest["files"] = [file for file in manifest["files"] if name and file["config_name"] != name]
    write_manifest(release, manifest)


def _odd_path(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    names = ["data/labels/a\x00b.parquet", "data/labels/a\nb.parquet", "", ".", "..", "/etc/passwd", "\ud800", "C:/x"]
    entry["path"] = rng.choice([*names, "a/../../b", "data//labels/x", "~/x", "data/labels/" + "x" * 5000])
    (release / MANIFEST).write_text(json.dumps(manifest))


def _odd_manifest(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    target = release / MANIFEST
    text = target.read_text()
    target.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        os.mkfifo(target)
    elif kind == 1:
        target.symlink_to("/dev/zero")
    elif kind == 2:
        target.mkdir()
    elif kind == 3:
        target.write_text(DEEP)
    elif kind == 4:
        target.write_bytes(b"\xff\xfe" + text.encode())
    else:
        target.write_text(rng.choice(["", "[]", "5", "null", '"x"', "{}", text[:-9], text + text]))


def _other_bytes(release: Path, manifest: Any, entry: Any, path: Path, rng: random.Random) -> None:
    before = path.read_bytes()
    while path.read_bytes() == before:
        path.write_bytes(mutate_bytes(before, rng)[0])


FILE_FAULTS: dict[str, Callable[[Path, Any, Any, Path, random.Random], None]] = {
    "fifo": _fifo,
    "device": _device,
    "gone": _gone,
    "folder": _folder,
    "link outside": _link_outside,
    "folder link outside": _folder_link_outside,
    "other file": _other_file,
    "twice": _twice,
    "no files": _no_files,
    "odd path": _odd_path,
    "odd manifest": _odd_manifest,
    "other bytes": _other_bytes,
}


def break_model(folder: Path, rng: random.Random) -> str:
    """Change one file of a model folder."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    kind = rng.choice(["setting"] * 5 + ["json", "weights", "bytes", "odd file", "swap"])
    if kind == "setting":
        tree = json.loads(config.read_text())
        key = rng.choice(sorted(tree))
        sizes = [0, -1, 1, 3, 31, 10**6, 2**31, 10**400, 1e9, 0.5, "64", None, True, [], [8, 8], {}, "relu9", "x"]
        tree[key] = rng.choice(sizes)
        config.write_text(json.dumps(tree))
        return f"{key} = {tree[key]!r}"[:60]
    if kind == "json":
        text, what = mutate_json(json.loads(config.read_text()), rng)
        config.write_text(text)
        return f"config.json {what}"
    if kind == "weights":
        header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
        content = bytearray(weights.read_bytes())
        place = rng.randrange(header)
        content[place : place + 4] = rng.randbytes(4)
        weights.write_bytes(content)
        return f"weights' header at {place}"
    path = rng.choice([config, weights])
    if kind == "bytes":
        content, what = mutate_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
        return f"{path.name} {what}"
    if kind == "swap":
        path.unlink()
        (folder / rng.choice(["pytorch_model.bin", "model.safetensors", "config.json"])).write_bytes(rng.randbytes(999))
        return f"junk and no {path.name}"
    path.unlink()
    odd = rng.choice(["fifo", "device", "folder", "gone"])
    if odd == "fifo":
        os.mkfifo(path)
    elif odd == "device":
        path.symlink_to("/dev/zero")
    elif odd == "folder":
        path.mkdir()
    return f"{path.name} is a {odd}"
