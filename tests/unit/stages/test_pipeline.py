"""The summary of a stage, and the configuration that a run saves."""

import dataclasses

import pytest
import yaml

from hf_relabel.config import BuildConfig, Config, ProposeConfig, RunConfig
from hf_relabel.errors import StageError
from hf_relabel.stages.pipeline import SECTIONS, save_config, summary_of_stage


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


def test_a_stage_updates_only_its_own_sections(tmp_path):
    file = tmp_path / "config.yaml"
    first = Config(propose=ProposeConfig(tau=0.3), build=BuildConfig(threshold=0.2))
    save_config(first, file)
    later = Config(build=BuildConfig(threshold=0.6), run=RunConfig(overwrite=True))
    save_config(later, file, SECTIONS["build"])
    saved = yaml.safe_load(file.read_text())
    assert saved["propose"]["tau"] == 0.3
    assert saved["build"]["threshold"] == 0.6
    assert saved["run"]["overwrite"] is False


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: [")
    with pytest.raises(StageError, match=r"config\.yaml"):
        save_config(Config(), file, SECTIONS["build"])


def test_every_section_is_saved_by_some_stage():
    saved = {name for names in SECTIONS.values() for name in names}
    assert {field.name for field in dataclasses.fields(Config)} == saved
