"""Check releases and the loader script with all supported versions of the datasets library: 2.14, 3, 4 and 5.

    python scripts/check_loader_versions.py
    python scripts/check_loader_versions.py --only 2.14.7 --environments /tmp/venvs

Two versions of a small release are published on the test server, and two runs have releases with equal names, cards
and versions but different rows. For each version of datasets, an environment is created with datasets, NumPy and
Pillow only, and these checks run in it:

- Two runs: `load_dataset` returns each run's own rows, in one process and in a new one, and the new rows after a
  release was built again in the same folder.
- `dataset_card/load_relabel.py`: the rows of both configurations, from the folder and from the Hub, streaming or not,
  are the release's, and so are class names and masks; images are joined; rows of another version are refused.
- A release of two splits, one of them without original labels: each split has its own rows.

This needs a package registry and about six minutes on two cores, so CI, which has fifteen for everything, does not run
it; with environments that exist (--environments), it takes about one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OLD = ["huggingface-hub==0.36.0", "pyarrow<21", "numpy<2"]
PINS = {
    "2.14.7": ["huggingface-hub==0.23.5", "pyarrow<21", "numpy<2", "pandas<2.3", "fsspec<2023.11"],
    "3.6.0": OLD,
    "4.8.0": [],
    "5.2.0": [],
}
"""Versions of datasets, each with older versions of what it needs where the current ones do not work."""

REPO = "owner/tiny"
TIMEOUT = 600
"""Seconds after which a process is considered hung."""


def main() -> int:
    options = _options()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    from hub_server import Hub, User

    with (
        tempfile.TemporaryDirectory(prefix="loader-") as name,
        Hub(Path(name, "hub"), {"hf_test": User("owner")}) as hub,
    ):
        folder = Path(name)
        _make_releases(folder)
        environment = _environment(hub.endpoint)
        for version in ("1.0.0", "1.1.0"):
            publish = ["-m", "hf_relabel", "publish", str(folder / version), REPO, "--version", version]
            _run(sys.executable, *publish, env=environment | {"HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_test"})
        failed = [
            version
            for version in options.only or PINS
            if not _check_version(version, folder, options.environments or folder, environment)
        ]
    print("failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


def _make_releases(folder: Path) -> None:
    """Write the releases, their images, and the expected rows as `expected.json`."""
    from PIL import Image
    from releases import CLASSES, make_release, make_rows

    expected = {"class_names": CLASSES}
    for version, threshold in (("1.0.0", 0.5), ("1.1.0", 0.7)):
        release = make_release(folder / version, version, threshold=threshold)
        for config_name in ("labels", "regions"):
            expected[f"{config_name} {version}"] = list(release.rows(config_name))
    for run, threshold in (("A", 0.5), ("B", 0.7), ("C", 0.9)):
        release = make_release(folder / "runs" / run / "release", "1.0.0", threshold=threshold)
        for config_name in ("labels", "regions"):
            expected[f"{config_name} {run}"] = list(release.rows(config_name))
    _make_splits(folder / "splits", expected)
    for row in make_rows(60):
        path = folder / "images" / row["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"])).save(path)
    (folder / "expected.json").write_text(json.dumps(expected))


def _make_splits(folder: Path, expected: dict[str, object]) -> None:
    """Write a release of two splits, the second without original labels."""
    import pyarrow as pa
    from releases import CLASSES, make_rows

    from hf_relabel.release.writer import write_release
    from hf_relabel.schema import release_schema

    rows = {"train": list(make_rows(30)), "validation": [row | {"label": None} for row in make_rows(20, seed=1)]}
    schema = release_schema("regions", CLASSES)
    tables = {
        split: [pa.Table.from_pylist(sorted(part, key=lambda row: row["image_id"]), schema=schema)]
        for split, part in rows.items()
    }
    release = write_release(folder, tables, class_names=CLASSES, version="1.0.0", name="Splits", provenance={})
    for split in rows:
        for config_name in ("labels", "regions"):
            expected[f"{config_name} {split}"] = list(release.only(split).rows(config_name))


def _environment(endpoint: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not (k.startswith("HF_") or k.lower().endswith("_proxy"))}
    ours = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return kept | ours | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def _check_version(version: str, folder: Path, environments: Path, environment: dict[str, str]) -> bool:
    """Run all checks with a version of datasets, print what fails, and return whether everything passed."""
    place = environments / version
    python = str(place / "bin" / "python")
    if not place.exists():
        venv.create(place, with_pip=True)
        wanted = [f"datasets=={version}", "pillow", *PINS[version]]
        registry = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted, env=registry)
    environment = environment | {"HF_HOME": str(folder / f"home-{version}")}
    _restore(folder)
    for step in ("runs", "again", "online", "offline"):
        if step == "again":
            _rebuild(folder)
        offline = {"HF_HUB_OFFLINE": "1"} if step == "offline" else {}
        try:
            _run(python, __file__, "--step", step, "--folder", str(folder), env=environment | offline)
        except subprocess.CalledProcessError:
            print(f"datasets {version}, {step}: failed", flush=True)
            return False
    return True


def _rebuild(folder: Path) -> None:
    """Replace the release in run A by that of run C, as a build with another threshold does."""
    (folder / "runs" / "A" / "release").rename(folder / "runs" / "A" / "before")
    shutil.copytree(folder / "runs" / "C" / "release", folder / "runs" / "A" / "release")


def _restore(folder: Path) -> None:
    """Undo `_rebuild`."""
    run = folder / "runs" / "A"
    if (run / "before").exists():
        shutil.rmtree(run / "release")
        (run / "before").rename(run / "release")


def _run(*command: str, env: dict[str, str]) -> None:
    subprocess.run(command, env=env, check=True, timeout=TIMEOUT)


def check_runs(folder: Path, *, rebuilt: bool) -> None:
    """Load two runs' releases with equal folder names and cards; each must give its own rows."""
    import datasets

    expected = json.loads((folder / "expected.json").read_text())
    for name in ("A", "B", "A"):
        release = str(folder / "runs" / name / "release")
        content = "C" if rebuilt and name == "A" else name
        for config_name in ("labels", "regions"):
            rows = list(datasets.load_dataset(release, config_name, split="train"))
            others = [run for run in ("A", "B", "C") if rows == expected[f"{config_name} {run}"]]
            print(f"runs/{name}/release, {config_name}: rows of {', '.join(others)}, expected {content}", flush=True)
            assert others == [content]


def check_online(folder: Path) -> None:
    """Check the script with access to the test server."""
    import load_relabel as loader
    import numpy as np
    from huggingface_hub import snapshot_download

    expected = json.loads((folder / "expected.json").read_text())
    for name, version in ((str(folder / "1.0.0"), "1.0.0"), (REPO, "1.0.0")):
        for config_name in ("labels", "regions"):
            for streaming in (False, True):
                data = loader.load_relabel(name, version, config_name, streaming=streaming)
                assert list(data) == expected[f"{config_name} {version}"], (name, version, config_name, streaming)
                assert loader.class_names(data) == expected["class_names"]
    check_splits(folder / "splits", expected)
    regions = loader.load_relabel(REPO, "1.0.0", "regions")
    masks = 0
    for row in regions:
        for region in row["regions"]:
            mask = loader.decode_rle(region["segmentation"])
            assert mask.shape == (row["height"], row["width"])
            assert mask.sum() == region["area"]
            masks += 1
    assert masks > 50
    labels = loader.load_relabel(REPO, "1.0.0", columns=["image_id", "label", "labels", "scores"])
    train = loader.TrainingDataset(labels, folder / "images", target="soft", transform=np.asarray)
    for (pixels, target), row in zip((train[index] for index in range(60)), regions, strict=True):
        assert pixels.shape == (row["height"], row["width"], 3)
        assert np.flatnonzero(target).tolist() == sorted(row["labels"])
    assert sum(1 for row in loader.joined(labels, folder / "images") if row["image"].mode == "RGB") == 60
    for streaming in (False, True):
        try:
            loader.load_relabel(str(folder / "1.0.0"), "1.1.0", streaming=streaming)
        except loader.VersionError:
            continue
        raise AssertionError("a folder with 1.0.0 was accepted as 1.1.0")
    assert loader.main([REPO, "1.0.0", "--config", "regions", "--images", str(folder / "images"), "--show", "1"]) == 0
    snapshot_download(REPO, repo_type="dataset", revision="v1.1.0", local_dir=_kept())


def check_splits(release: Path, expected: dict) -> None:
    """Load each split of a release with several, with the library and with the script."""
    import datasets
    import load_relabel as loader

    for config_name in ("labels", "regions"):
        assert set(datasets.load_dataset(str(release), config_name)) == {"train", "validation"}
        for split in ("train", "validation"):
            rows = expected[f"{config_name} {split}"]
            assert list(datasets.load_dataset(str(release), config_name, split=split)) == rows, (config_name, split)
            assert list(loader.load_relabel(str(release), "1.0.0", config_name, split=split)) == rows
    try:
        loader.load_relabel(str(release), "1.0.0")
    except ValueError:
        return
    raise AssertionError("a split was chosen without being asked for")


def _kept() -> Path:
    """Folder of a version for offline use. datasets 2.14 does not follow the links of the cache."""
    return Path(os.environ["HF_HOME"], "1.1.0")


def check_offline(folder: Path) -> None:
    """Ask for two versions when only 1.0.0 is cached: the library or the script must refuse the other one.

    datasets 2.14 refuses both; what the script's message suggests works with all versions.
    """
    import load_relabel as loader

    expected = json.loads((folder / "expected.json").read_text())
    for version in ("1.0.0", "1.1.0"):
        try:
            rows = list(loader.load_relabel(REPO, version))
        except (loader.VersionError, ConnectionError, ValueError) as error:
            print(f"offline, {version} from the cache: {type(error).__name__}")
        else:
            assert rows == expected[f"labels {version}"], f"offline, rows of another version were accepted as {version}"
            print(f"offline, {version} from the cache: its rows")
    assert list(loader.load_relabel(str(_kept()), "1.1.0")) == expected["labels 1.1.0"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", action="append", choices=list(PINS), help="check only this version of datasets")
    parser.add_argument("--environments", type=Path, help="folder with an environment per version, reused if present")
    parser.add_argument("--step", choices=["runs", "again", "online", "offline"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _step(step: str, folder: Path) -> None:
    """Run one part of the checks, in the environment with one version of datasets."""
    import datasets
    import huggingface_hub

    sys.path.insert(0, str(ROOT / "dataset_card"))
    if step == "runs":
        print(f"--- datasets {datasets.__version__}, huggingface_hub {huggingface_hub.__version__}", flush=True)
    if step in ("runs", "again"):
        check_runs(folder, rebuilt=step == "again")
    elif step == "online":
        check_online(folder)
    else:
        check_offline(folder)


if __name__ == "__main__":
    chosen = _options()
    sys.exit(_step(chosen.step, chosen.folder) if chosen.step else main())
