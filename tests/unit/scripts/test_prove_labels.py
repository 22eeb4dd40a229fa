"""`scripts/prove_labels.py`: its measures compared with manual computation, and the whole script on a few scenes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "prove_labels.py"


@pytest.fixture
def prove(monkeypatch):
    """Import the script as a module."""
    monkeypatch.setenv("TQDM_DISABLE", "1")  # restores the value after the script has set it
    spec = importlib.util.spec_from_file_location("prove_labels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measures_are_means_over_seeds_and_gains_are_paired(prove):
    truth = np.array([[True, True, False], [False, False, True]])
    right = np.array([[0.9, 0.8, 0.1], [0.1, 0.2, 0.9]])
    half = np.array([[0.9, 0.1, 0.8], [0.1, 0.2, 0.9]])  # the second true class of the first image has rank 3
    rows = {row: [half, half] for row in prove.ROWS} | {prove.ROWS[2]: [right, half]}
    transfers = {"transfer": rows, "transfer_head": {row: [right, right] for row in prove.ROWS}}
    found = prove.measure(rows, truth, transfers, truth)
    single, multi = found[prove.ROWS[0]], found[prove.ROWS[2]]
    precision = ((1 + 2 / 3) / 2 + 1) / 2
    assert single["map_over_images"]["value"] == pytest.approx(precision)
    assert multi["map_over_images"]["value"] == pytest.approx((1 + precision) / 2)
    assert multi["map_over_images"]["seeds"] == pytest.approx([1, precision])
    assert multi["map_over_images"]["gain"] == pytest.approx((1 - precision) / 2)
    low, high = multi["map_over_images"]["gain_interval"]
    assert low == 0  # a resample without the first seed, or without the first image
    assert high > (1 - precision) / 2
    assert single["top1"]["value"] == 1
    assert single["map_over_images"]["gain_interval"] == [0, 0]
    assert multi["transfer_head"]["value"] == 1
    assert multi["transfer"]["value"] > single["transfer"]["value"]


@pytest.mark.slow
def test_the_whole_script(prove, tiny_dinov2, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prove, "ensure_checkpoint", lambda: tiny_dinov2)
    counts = ["--scenes", "30", "--test-scenes", "24", "--transfer-scenes", "24", "--epochs", "4"]
    arguments = ["--dir", str(tmp_path), "--seeds", "0", "1", *counts]
    prove.main(arguments)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["rows"]) == list(prove.ROWS)
    for row in prove.ROWS:
        for name in prove.MEASURES:
            measure = found["rows"][row][name]
            assert 0 < measure["value"] <= 1, (row, name)
            assert len(measure["seeds"]) == 2
            assert measure["value"] == pytest.approx(np.mean(measure["seeds"]))
            assert measure["interval"][0] < measure["interval"][1]
        assert f"{100 * found['rows'][row]['map_over_images']['value']:.1f} [" in printed
    assert "points of mAP over images" in printed
    # a second run reuses the first and gives the same result
    prove.main(arguments)
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == found["rows"]
