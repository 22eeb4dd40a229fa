"""The summary of a stage, and the configuration that a run saves."""

import pytest

from hf_relabel.commands.options import options_of
from hf_relabel.commands.parser import parse
from hf_relabel.commands.pipeline import COMMANDS
from hf_relabel.config import BuildConfig, Config, ProposeConfig, RunConfig
from hf_relabel.errors import StageError
from hf_relabel.stages.pipeline import save_config, summary_of_stage
from hf_relabel.stages.settings import READS, is_read


def test_a_summary_separates_what_was_dropped_from_its_count():
    counters = {"images": 1200, "errors": 3, "proposals": 9800, "dropped: too small": 20, "dropped: empty": 0}
    title, *rows = cells(summary_of_stage("propose", {"counters": counters}, 2.0))
    assert title == ("propose: done in 2.0 s",)
    assert rows == [
        ("images", "1,200"), ("kept", "proposals", "9,800"), ("dropped", "unreadable images", "3"),
        ("dropped", "too small", "20"),
    ]  # fmt: skip


def test_a_note_is_the_last_line_of_a_summary():
    outcome = {"counters": {"images": 3, "labels": 3}, "note": "no label was added: too few images"}
    lines = summary_of_stage("build", outcome, 2.0).splitlines()
    assert lines[-1] == "  note: no label was added: too few images"
    assert len(lines) == 4


def cells(summary: str) -> list[tuple[str, ...]]:
    lines = [[part.strip() for part in line.split("  ")] for line in summary.splitlines()]
    return [tuple(part for part in line if part) for line in lines]


def test_the_summary_of_score_says_what_regions_train_as_and_why():
    counters = {
        "windows that train as nothing: overlaps a region of a class": 7,
        "proposals that train as background: no class is likely": 30,
        "proposals that train as class: best region for the given label": 40,
        "images with a region that trains as a class": 40,
        "images": 41,
    }
    assert cells(summary_of_stage("score", {"counters": counters}, 1.0))[1:] == [
        ("images", "41"),
        ("kept", "images with a region that trains as a class", "40"),
        ("class", "proposals: best region for the given label", "40"),
        ("background", "proposals: no class is likely", "30"),
        ("nothing", "windows: overlaps a region of a class", "7"),
    ]


def test_the_summary_of_train_says_what_scores_are_worth():
    training = {
        "regions": 900, "held_out_regions": 0, "history": [], "head": "discriminant", "folds": 20,
        "regions_per_class": 12.5,
        "scores": {
            "evidence": "agreement", "calibration": {"propensity": 0.8},
            "estimates": {"agreement": {"propensity": 0.8, "added": 120, "true": 95.7}},
        },
    }  # fmt: skip
    rows = cells(summary_of_stage("train", training, 1.0))[1:]
    assert ("kept", "regions to train on", "900") in rows
    assert ("regions per class, median (head: discriminant)", "12.500") in rows
    assert ("labels to add at 0.5, by estimate", "120") in rows
    assert ("of them true, by estimate", "96") in rows


def test_a_stage_updates_only_what_it_reads(tmp_path):
    file = tmp_path / "config.yaml"
    first = Config(propose=ProposeConfig(tau=0.3), build=BuildConfig(threshold=0.2), run=RunConfig(seed=7))
    save_config(first, file)
    later = Config(build=BuildConfig(threshold=0.6), run=RunConfig(overwrite=True, dir="other"))
    save_config(later, file, "build")
    saved = parse(COMMANDS["run"], ["--config", str(file)])
    assert saved == Config(
        propose=first.propose, build=later.build, run=RunConfig(seed=7, dir="other", overwrite=False)
    )


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: [")
    with pytest.raises(StageError, match=r"config\.yaml"):
        save_config(Config(), file, "build")


def test_every_setting_is_read_by_some_stage():
    for item in options_of(COMMANDS["run"]):
        assert any(is_read(item.key, reads) for reads in READS.values()), item.key
