"""The loader script under every line of the datasets library that it promises: 2.14, 3, 4 and the current one.

    python scripts/check_loader_versions.py
    python scripts/check_loader_versions.py --only 2.14.7

Two versions of a small release are published on the tests' server of the Hub. For each version of datasets a
throw-away environment is made with nothing but datasets, NumPy and Pillow, and `dataset_card/load_relabel.py` is run
in it: rows of both configurations from the folder and from the Hub, streamed or not, equal the release's; so do class
names and masks; images are joined; another version's rows, from a folder or a stale cache, are refused. It needs a
package registry and some minutes, so it is no part of CI.
"""

import argparse
import json
import os
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
    "4.0.0": OLD,
    "5.2.0": [],
}
"""Versions of datasets, each with what was current in its time where a later one does not fit."""

REPO = "owner/tiny"
PATIENCE = 600
"""Seconds after which a process is taken to hang."""


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
        failed = [version for version in options.only or PINS if not _check_version(version, folder, environment)]
    print("failed: " + ", ".join(failed) if failed else "all well")
    return 1 if failed else 0


def _make_releases(folder: Path) -> None:
    """Both releases, their images, and the rows that the checks expect, as `expected.json`."""
    from PIL import Image
    from releases import CLASSES, make_release, make_rows

    expected = {"class_names": CLASSES}
    for version, threshold in (("1.0.0", 0.5), ("1.1.0", 0.7)):
        release = make_release(folder / version, version, threshold=threshold)
        for config_name in ("labels", "regions"):
            rows = [row for batch in release.batches(config_name) for row in batch.to_pylist()]
            expected[f"{config_name} {version}"] = rows
    for row in make_rows(60):
        path = folder / "images" / row["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"])).save(path)
    (folder / "expected.json").write_text(json.dumps(expected))


def _environment(endpoint: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not (k.startswith("HF_") or k.lower().endswith("_proxy"))}
    ours = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return kept | ours | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def _check_version(version: str, folder: Path, environment: dict[str, str]) -> bool:
    """Whether everything holds with this version of datasets; the process that checks says what does not."""
    place = folder / f"datasets-{version}"
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    wanted = [f"datasets=={version}", "pillow", *PINS[version]]
    registry = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted, env=registry)
    environment = environment | {"HF_HOME": str(place / "home")}
    for step in ("online", "offline"):
        offline = {"HF_HUB_OFFLINE": "1"} if step == "offline" else {}
        try:
            _run(python, __file__, "--step", step, "--folder", str(folder), env=environment | offline)
        except subprocess.CalledProcessError:
            print(f"datasets {version}, {step}: failed", flush=True)
            return False
    return True


def _run(*command: str, env: dict[str, str]) -> None:
    subprocess.run(command, env=env, check=True, timeout=PATIENCE)


def check_online(folder: Path) -> None:
    """All of the script, with the Hub at hand. Runs in the throw-away environment."""
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
        raise AssertionError("a folder with 1.0.0 passed as 1.1.0")
    assert loader.main([REPO, "1.0.0", "--config", "regions", "--images", str(folder / "images"), "--show", "1"]) == 0
    snapshot_download(REPO, repo_type="dataset", revision="v1.1.0", local_dir=_kept())


def _kept() -> Path:
    """Where a version is kept for use without network. datasets 2.14 finds no files behind the links of the cache."""
    return Path(os.environ["HF_HOME"], "1.1.0")


def check_offline(folder: Path) -> None:
    """The cache holds 1.0.0 alone: whatever else is asked for must be refused, by the library or by the script.

    datasets 2.14 refuses any version; what the script advises works with all.
    """
    import load_relabel as loader

    expected = json.loads((folder / "expected.json").read_text())
    for version in ("1.0.0", "1.1.0"):
        try:
            rows = list(loader.load_relabel(REPO, version))
        except (loader.VersionError, ConnectionError, ValueError) as error:
            print(f"offline, {version} from the cache: {type(error).__name__}")
        else:
            assert rows == expected[f"labels {version}"], f"offline, rows of another version passed as {version}"
            print(f"offline, {version} from the cache: its rows")
    assert list(loader.load_relabel(str(_kept()), "1.1.0")) == expected["labels 1.1.0"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", action="append", choices=list(PINS), help="check this version of datasets alone")
    parser.add_argument("--step", choices=["online", "offline"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _step(step: str, folder: Path) -> None:
    """One part of the checks, in the throw-away environment."""
    import datasets
    import huggingface_hub

    sys.path.insert(0, str(ROOT / "dataset_card"))
    if step == "online":
        print(f"--- datasets {datasets.__version__}, huggingface_hub {huggingface_hub.__version__}", flush=True)
        check_online(folder)
    else:
        check_offline(folder)


if __name__ == "__main__":
    chosen = _options()
    sys.exit(_step(chosen.step, chosen.folder) if chosen.step else main())
