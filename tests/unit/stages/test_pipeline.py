"""The summary of a stage, and the configuration that a run saves."""

import pytest

from hf_relabel.commands.parser import options_of, parse
from hf_relabel.commands.pipeline import COMMANDS
from hf_relabel.config import READS, BuildConfig, Config, ProposeConfig, RunConfig, is_read
from hf_relabel.errors import StageError
from hf_relabel.stages.pipeline import save_config, summary_of_stage


def test_a_summary_separates_what_was_dropped_from_its_count():
    counters = {"images": 1200, "errors": 3, "kept": 980, "dropped: below tau_label": 20, "dropped: empty": 0}
    lines = summary_of_stage("score", {"counters": counters}, 2.0).splitlines()
    rows = [tuple(part for part in line.split("  ") if part) for line in lines[1:]]
    cells = [tuple(part.strip() for part in row) for row in rows]
    assert lines[0].startswith("score: ")
    assert cells == [
        ("images", "1,200"), ("kept", "proposals", "980"), ("dropped", "unreadable images", "3"),
        ("dropped", "below tau_label", "20"),
    ]  # fmt: skip


def test_a_note_is_the_last_line_of_a_summary():
    outcome = {"counters": {"images": 3, "labels": 3}, "note": "no label was added: too few images"}
    lines = summary_of_stage("build", outcome, 2.0).splitlines()
    assert lines[-1] == "  note: no label was added: too few images"
    assert len(lines) == 4


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
