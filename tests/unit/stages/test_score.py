"""What regions train as by label maps: the paper's keep rules, and background where the map supports no class."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs import ImageRegions, make_job, rows_of, write_proposals

from hf_relabel.config import ScoreConfig
from hf_relabel.errors import StageError, UsageError
from hf_relabel.labeling.label_map_scorer import BELOW_ORIGINAL, BELOW_TOP1, KEPT, NO_SUPPORT, NOT_PRIMARY
from hf_relabel.run.job import Job
from hf_relabel.schema import TARGET_BACKGROUND, TARGET_NOTHING
from hf_relabel.stages import score

CLASSES = 12
LABEL = 1


def quarter(down: int, across: int) -> np.ndarray:
    mask = np.zeros((4, 4), bool)
    mask[2 * down : 2 * down + 2, 2 * across : 2 * across + 2] = True
    return mask


def scored(folder, images: int = 1, **settings):
    """Make images whose map shows class 1 at the top left, 2 at the top right, a weak 1 at the bottom left.

    MaskCut has a proposal for these three quarters, merging has one for the top left and for the fourth quarter, and
    there are 4 x 4 windows.
    """
    config = ScoreConfig(method="label_map", label_maps=str(folder / "maps"), **settings)
    job = make_job(folder / "run", [LABEL] * images, CLASSES, score=config)
    found = [("maskcut", quarter(0, 0)), ("maskcut", quarter(0, 1)), ("maskcut", quarter(1, 0))]
    found += [("merge", quarter(0, 0)), ("merge", quarter(1, 1))]
    regions = ImageRegions(np.zeros(3), [(kind, mask, np.zeros((1, 3))) for kind, mask in found], np.zeros((16, 3)))
    write_proposals(job, [regions] * images)
    label_map = torch.zeros(2, 5, 15, 15)
    label_map[1] = torch.arange(5)[:, None, None] + 7
    label_map[:, 0, :7, :7] = torch.tensor([9.0, 1.0])[:, None, None]
    label_map[:, 0, :7, 8:] = torch.tensor([9.0, 2.0])[:, None, None]
    label_map[:, 0, 8:, :7] = torch.tensor([2.6, 1.0])[:, None, None]
    (folder / "maps").mkdir(exist_ok=True)
    for image_id in job.snapshot.image_ids:
        torch.save(label_map, folder / "maps" / image_id.replace(".jpg", ".pt"))
    return job


@pytest.mark.parametrize(
    ("settings", "targets", "reasons"),
    [
        ({"keep": "original"}, [1, -1, -1], [KEPT, BELOW_ORIGINAL, BELOW_ORIGINAL]),
        ({"keep": "original", "tau_label": 0.3}, [1, -1, 1], [KEPT, BELOW_ORIGINAL, KEPT]),
        ({"keep": "original", "tau_label": 1.0}, [-1, -1, -1], [BELOW_ORIGINAL] * 3),
        ({"keep": "best", "tau_label": 1.0}, [1, -1, -1], [KEPT, BELOW_ORIGINAL, BELOW_ORIGINAL]),
        ({"keep": "top1"}, [1, 2, -1], [KEPT, KEPT, BELOW_TOP1]),
        ({"keep": "original", "tau_background": 0.7}, [1, -1, -2], [KEPT, BELOW_ORIGINAL, NO_SUPPORT]),
    ],
)
def test_keep_rules(tmp_path, settings, targets, reasons):
    job = scored(tmp_path, **settings)
    score.run(job)
    (row,) = rows_of(job, "scores", "score")
    assert [proposal["target"] for proposal in row["proposals"][:3]] == targets
    assert [proposal["reason"] for proposal in row["proposals"][:3]] == reasons


def test_merged_regions_and_windows_train_as_background_or_nothing(tmp_path):
    job = scored(tmp_path)
    score.run(job)
    (row,) = rows_of(job, "scores", "score")
    merged = [(proposal["target"], proposal["reason"]) for proposal in row["proposals"][3:]]
    assert merged == [(TARGET_NOTHING, NOT_PRIMARY), (TARGET_BACKGROUND, NO_SUPPORT)]
    windows = [(item["target"], item["reason"]) for item in row["windows"]]
    assert windows[0] == (TARGET_NOTHING, NOT_PRIMARY)  # at the top left, on class 1
    assert windows[15] == (TARGET_BACKGROUND, NO_SUPPORT)
    assert len(windows) == 16


def test_the_probabilities_of_the_map_are_stored(tmp_path):
    job = scored(tmp_path, top_k=2)
    score.run(job)
    (row,) = rows_of(job, "scores", "score")
    first, second = row["proposals"][:2]
    assert first["top_labels"][0] == 1
    assert first["top_scores"][0] == first["original_score"] > 0.9
    assert second["top_labels"][0] == 2
    assert second["original_score"] < 0.1
    assert first["background_score"] is None
    assert {len(proposal["top_labels"]) for proposal in row["proposals"]} == {2}


def test_the_whole_image_trains_only_where_nothing_is_kept(tmp_path):
    for tau, expected in ((1.0, True), (0.5, False)):
        job = scored(tmp_path / str(tau), keep="original", tau_label=tau, force_original=True)
        counters = score.run(job)["counters"]
        (row,) = rows_of(job, "scores", "score")
        assert row["whole_image"] is expected
        assert counters["images trained on as a whole"] == expected


def test_counters_say_what_regions_train_as_and_why(tmp_path):
    counters = score.run(scored(tmp_path, images=4, keep="original"))["counters"]
    assert counters[f"proposals that train as class: {KEPT}"] == 4
    assert counters[f"proposals that train as nothing: {BELOW_ORIGINAL}"] == 8
    assert counters[f"proposals that train as background: {NO_SUPPORT}"] == 4
    assert counters["images with a region that trains as a class"] == 4
    assert counters["errors"] == 0


def test_a_missing_label_map_is_an_error_row_with_its_reason(tmp_path):
    job = scored(tmp_path, images=4)
    for path in (tmp_path / "maps").iterdir():
        path.unlink()
    job = Job(replace(job.config, run=replace(job.config.run, max_error_rate=1.0)), job.rank)
    assert score.run(job)["counters"]["errors"] == 4
    rows = rows_of(job, "scores", "score")
    assert {row["error"] for row in rows} == {"no label map"}
    assert not any(row["proposals"] or row["windows"] or row["whole_image"] for row in rows)


def test_the_maker_of_the_maps_is_an_input(tmp_path):
    """Maps of another classifier in the same folder are noticed; finished scores need no maps any more."""
    job = scored(tmp_path)
    assert score.run(job)["inputs"]["label_maps"] == {"model": "unknown"}
    made = {"model": "a/b", "revision": "c" * 40, "image_size": 288}
    (tmp_path / "maps" / "label_maps.json").write_text(json.dumps(made | {"class_names": ["x"] * 1000}))
    with pytest.raises(StageError, match=r"label_maps\.model"):
        score.run(Job(job.config, job.rank))
    again = Job(replace(job.config, run=replace(job.config.run, overwrite=True)), job.rank)
    assert score.run(again)["inputs"]["label_maps"] == made
    shutil.rmtree(tmp_path / "maps")
    assert score.run(Job(job.config, job.rank))["inputs"]["label_maps"] == made


def test_label_map_needs_a_folder():
    with pytest.raises(UsageError, match=r"score\.label_maps"):
        ScoreConfig(method="label_map")
