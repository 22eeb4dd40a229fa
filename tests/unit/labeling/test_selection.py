"""The bootstrap on generated images: what regions train as, and that no image judges itself."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from jobs import ImageRegions, make_job, rows_of, write_proposals
from scenes import make_scenes

from hf_relabel.config import BootstrapConfig, ScoreConfig
from hf_relabel.errors import StageError
from hf_relabel.labeling import selection
from hf_relabel.labeling.selection import fit_selection
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import TARGET_BACKGROUND
from hf_relabel.stages import score

CLASSES = 6


def selected(folder, scenes, shard_size=400, threads=1, **bootstrap) -> list[dict]:
    config = ScoreConfig(bootstrap=BootstrapConfig(**{"folds": 5} | bootstrap))
    job = make_job(folder, scenes.labels, CLASSES, shard_size, threads, score=config)
    write_proposals(job, scenes.regions)
    score.run(job)
    return rows_of(job, "scores", "score")


def targets_by_truth(rows, scenes) -> dict[str, list[int]]:
    """Targets of MaskCut's regions by what they show: the given class, another one, or nothing known."""
    found: dict[str, list[int]] = {"given": [], "other": [], "nothing": []}
    right: dict[str, list[bool]] = {"given": [], "other": []}
    for row, shown, label in zip(rows, scenes.shown, scenes.labels, strict=True):
        for name, proposal in zip(shown, row["proposals"], strict=False):
            kind = "given" if name == label else "other" if name >= 0 else "nothing"
            found[kind].append(proposal["target"])
            if kind != "nothing":
                right[kind].append(proposal["target"] == name)
    return found | {f"right {kind}": flags for kind, flags in right.items()}


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(240, CLASSES)


@pytest.mark.parametrize(("shard_size", "threads"), [(240, 1), (32, 2)])
def test_regions_train_as_what_they_show(tmp_path, scenes, shard_size, threads):
    found = targets_by_truth(selected(tmp_path, scenes, shard_size, threads), scenes)
    assert np.mean(found["right given"]) > 0.95
    assert np.mean(np.array(found["nothing"]) == TARGET_BACKGROUND) > 0.9
    assert np.mean(found["right other"]) > 0.6  # self-training


def test_without_self_training_other_objects_become_background(tmp_path, scenes):
    """Probabilities never exceed 1, so with this setting no region trains as another class."""
    found = targets_by_truth(selected(tmp_path, scenes, other_class=1.0, unsure=1.0), scenes)
    assert not any(found["right other"])
    assert np.mean(np.array(found["other"]) == TARGET_BACKGROUND) > 0.9


def test_merged_regions_and_windows_train_as_background_only(tmp_path, scenes):
    rows = selected(tmp_path, scenes)
    merged = [
        item["target"] for row, shown in zip(rows, scenes.shown, strict=True) for item in row["proposals"][len(shown) :]
    ]
    windows = [item["target"] for row in rows for item in row["windows"]]
    for targets in (merged, windows):
        assert max(targets) < 0
        assert 0 < np.mean(np.array(targets) == TARGET_BACKGROUND) < 0.9


def test_the_cut_into_shards_and_threads_changes_nothing(tmp_path, scenes):
    one = selected(tmp_path / "one", scenes, 240, 1)
    many = selected(tmp_path / "many", scenes, 32, 2)
    for a, b in zip(one, many, strict=True):
        assert [item["target"] for item in a["proposals"]] == [item["target"] for item in b["proposals"]]
        for mine, theirs in zip(a["proposals"], b["proposals"], strict=True):
            assert np.allclose(mine["top_scores"], theirs["top_scores"], atol=1e-6)


def test_an_image_is_judged_by_classifiers_that_did_not_see_it(tmp_path):
    """One image has a look of its own: a classifier fitted on it would be sure of it, the others cannot be."""
    scenes = make_scenes(120, CLASSES, extra=0.0, distractors=0.0, merged=0, windows=0)
    outlier = np.zeros(24)
    outlier[0] = 40.0
    mask = np.ones((12, 12), bool)
    scenes.regions[7] = ImageRegions(outlier, [("maskcut", mask, outlier[None])])
    rows = selected(tmp_path, scenes)
    assert rows[7]["proposals"][0]["original_score"] < 0.5
    others = [row["proposals"][0]["original_score"] for number, row in enumerate(rows) if number != 7]
    assert np.median(others) > 0.9


def test_errors_and_images_without_proposals_have_rows(tmp_path):
    scenes = make_scenes(60, CLASSES, merged=0, windows=0)
    scenes.regions[5] = None
    scenes.regions[7] = ImageRegions(scenes.regions[7].whole)
    job = make_job(tmp_path, scenes.labels, CLASSES, score=ScoreConfig(force_original=True))
    write_proposals(job, scenes.regions)
    counters = score.run(job)["counters"]
    rows = rows_of(job, "scores", "score")
    assert (rows[5]["error"], rows[5]["proposals"]) == ("cannot identify image file", [])
    assert (rows[7]["error"], rows[7]["whole_image"]) == (None, True)
    assert counters["images trained on as a whole"] == 1
    assert counters["images with a region that trains as a class"] == 58
    assert counters["errors"] == 1


def test_no_proposal_in_any_image(tmp_path):
    job = make_job(tmp_path, [0, 1, 0], 2)
    write_proposals(job, [ImageRegions(np.zeros(4))] * 3)
    with pytest.raises(StageError, match=r"no image has a proposal;.*propose\.tau"):
        score.run(job)
    assert not list(Path(tmp_path).glob("scores/shard-*"))


def test_a_damaged_selection_is_made_again(tmp_path, scenes):
    selected(tmp_path, scenes)
    folder = tmp_path / "scores"
    weights = folder / "bootstrap.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for path in folder.glob("*.parquet"):
        path.unlink()
    selected(tmp_path, scenes)
    assert weights.read_bytes() == good


@pytest.mark.parametrize(("budget", "reads"), [(10**9, 1), (0, 4)])
def test_tables_are_read_once_as_far_as_memory_allows(tmp_path, scenes, monkeypatch, budget, reads):
    monkeypatch.setattr(selection, "LAYOUT_BYTES", budget)
    job = make_job(tmp_path, scenes.labels, CLASSES, 60, score=ScoreConfig(bootstrap=BootstrapConfig(folds=5)))
    folder = write_proposals(job, scenes.regions)
    read, read_table = [], type(folder).read
    monkeypatch.setattr(
        type(folder), "read", lambda self, shard, *columns: read.append(shard) or read_table(self, shard, *columns)
    )
    with ThreadPoolExecutor(1) as threads:
        fit_selection(job, folder, ShardFolder(job.stage_folder("scores"), "scores", Fingerprint({})), threads)
    assert sorted(read) == sorted([0, 1, 2, 3] * reads)
