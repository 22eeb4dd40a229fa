import numpy as np
import pytest
import torch
from jobs import make_job, write_proposals

from hf_relabel.config import ScoreConfig
from hf_relabel.errors import UsageError
from hf_relabel.stages import score

PROBABILITIES = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], np.float32)


@pytest.mark.parametrize(
    ("keep", "tau", "expected"),
    [
        ("original", 0.5, [False, True, False]),
        ("original", 0.7, [False, False, False]),
        ("best", 0.7, [False, True, False]),
        ("best", 0.15, [True, True, False]),
        ("top1", 0.65, [True, False, True]),
    ],
)
def test_keep_rules(keep, tau, expected):
    assert score.keep_rule(PROBABILITIES, 0, ScoreConfig(keep=keep, tau_label=tau)).tolist() == expected


def test_no_proposals_keep_nothing():
    for keep in ("best", "original", "top1"):
        assert score.keep_rule(np.zeros((0, 3), np.float32), 0, ScoreConfig(keep=keep)).tolist() == []


def _row(proposals: int) -> dict:
    ids = [{"proposal_id": f"a#{k}"} for k in range(proposals)]
    return {"image_id": "a", "label": 0, "error": None, "proposals": ids}


def test_dropped_proposals_carry_their_reason_and_no_target():
    row = score.score_image(_row(3), lambda _: PROBABILITIES, ScoreConfig(keep="top1", tau_label=0.65, top_k=2))
    assert [proposal["target"] for proposal in row["proposals"]] == [1, -1, 2]
    assert [proposal["reason"] for proposal in row["proposals"]] == [None, "top-1 below tau_label", None]
    assert row["proposals"][0]["top_labels"] == [1, 0]
    assert row["proposals"][0]["original_score"] == pytest.approx(0.2)


def test_force_original_trains_the_whole_image_only_where_nothing_is_kept():
    config = ScoreConfig(keep="original", tau_label=0.9, force_original=True)
    assert score.score_image(_row(3), lambda _: PROBABILITIES, config)["whole_image"]
    config = ScoreConfig(keep="original", tau_label=0.5, force_original=True)
    assert not score.score_image(_row(3), lambda _: PROBABILITIES, config)["whole_image"]


def test_label_maps_score_the_stage(tmp_path):
    """The upper half of each image shows class 1 or 2, the original label is 1: half of the proposals are kept."""
    config = ScoreConfig(method="label_map", label_maps=str(tmp_path / "maps"), keep="original")
    job = make_job(tmp_path / "run", [1] * 8, 12, score=config)
    write_proposals(job, [np.zeros((2, 1, 4))] * 8)  # every proposal is the image's upper half
    (tmp_path / "maps").mkdir()
    for number, image_id in enumerate(job.snapshot.image_ids):
        label_map = torch.zeros(2, 5, 15, 15)
        label_map[0, 0] = 9.0
        label_map[1] = torch.arange(5)[:, None, None] + 5
        label_map[1, 0, :7] = 1 + number % 2
        torch.save(label_map, tmp_path / "maps" / image_id.replace(".jpg", ".pt"))
    counters = score.run(job)["counters"]
    assert counters["kept"] == 4
    assert counters["dropped: original label below tau_label"] == 4
    assert counters["errors"] == 0


def test_a_missing_label_map_is_an_error_row_with_its_reason(tmp_path):
    (tmp_path / "maps").mkdir()
    config = ScoreConfig(method="label_map", label_maps=str(tmp_path / "maps"))
    job = make_job(tmp_path / "run", [1] * 4, 12, score=config)
    object.__setattr__(job.config.run, "max_error_rate", 1.0)
    write_proposals(job, [np.zeros((2, 1, 4))] * 4)
    assert score.run(job)["counters"]["errors"] == 4
    rows = job.finished("scores", "score")[0].read(0).to_pylist()
    assert {row["error"] for row in rows} == {"no label map"}


def test_label_map_needs_a_folder():
    with pytest.raises(UsageError, match=r"score\.label_maps"):
        ScoreConfig(method="label_map")
