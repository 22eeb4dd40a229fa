"""The configuration tree: values no run could use are refused by name, and what is saved reads back the same."""

import dataclasses

import docstring_parser
import pytest
import yaml

from hf_relabel.commands.parser import parse
from hf_relabel.commands.pipeline import COMMANDS
from hf_relabel.config import (
    BackboneConfig,
    BootstrapConfig,
    BuildConfig,
    Config,
    FeatureConfig,
    LabelConfig,
    ProposeConfig,
    RunConfig,
    ScoreConfig,
    SourceConfig,
    TrainConfig,
    as_dict,
)
from hf_relabel.errors import UsageError
from hf_relabel.stages.pipeline import save_config

SECTIONS = [SourceConfig, FeatureConfig, BackboneConfig, ProposeConfig, BootstrapConfig, ScoreConfig]
SECTIONS += [TrainConfig, LabelConfig, BuildConfig, RunConfig]


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (SourceConfig, {"limit": 0}, "source.limit"),
        (BackboneConfig, {"model": ""}, "backbone.model"),
        (BackboneConfig, {"image_size": 0}, "backbone.image_size"),
        (ProposeConfig, {"tau": 1.0}, "propose.tau"),
        (ProposeConfig, {"tau": -0.1}, "propose.tau"),
        (ProposeConfig, {"max_masks": 0}, "propose.max_masks"),
        (ProposeConfig, {"views": -1}, "propose.views"),
        (ProposeConfig, {"view_drop": 1.0}, "propose.view_drop"),
        (BootstrapConfig, {"rounds": 0}, "score.bootstrap.rounds"),
        (BootstrapConfig, {"folds": 1}, "score.bootstrap.folds"),
        (ScoreConfig, {"tau_label": 1.5}, "score.tau_label"),
        (ScoreConfig, {"method": "label_map"}, "score.label_maps"),
        (ScoreConfig, {"label_maps": "maps"}, "score.label_maps"),
        (TrainConfig, {"epochs": 0}, "train.epochs"),
        (TrainConfig, {"dropout": 1.0}, "train.dropout"),
        (TrainConfig, {"val_fraction": 1.0}, "train.val_fraction"),
        (LabelConfig, {"top_k": 0}, "label.top_k"),
        (BuildConfig, {"version": "1.0"}, "build.version"),
        (BuildConfig, {"version": "1.0.x"}, "build.version"),
        (BuildConfig, {"threshold": 1.1}, "build.threshold"),
        (RunConfig, {"shard_size": 0}, "run.shard_size"),
        (RunConfig, {"max_error_rate": 2.0}, "run.max_error_rate"),
        (RunConfig, {"part": "3/3"}, "run.part"),
        (RunConfig, {"part": "1"}, "run.part"),
    ],
)
def test_values_that_no_run_could_use_are_refused_by_name(section, values, words):
    with pytest.raises(UsageError, match=f"^{words}: ") as refused:
        section(**values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_explained(section):
    explained = {item.arg_name for item in docstring_parser.parse(section.__doc__).params if item.description}
    assert explained == {field.name for field in dataclasses.fields(section)}


def test_a_saved_configuration_reads_back_the_same(tmp_path):
    config = Config(
        source=SourceConfig(path="photos", limit=5),
        backbone=BackboneConfig(image_size=448, proposal_feature=FeatureConfig("query", -2)),
        score=ScoreConfig(method="label_map", label_maps="maps", bootstrap=BootstrapConfig(rounds=3)),
        build=BuildConfig(name="Ünïcode"),
    )
    save_config(config, tmp_path / "config.yaml")
    assert parse(COMMANDS["run"], ["--config", str(tmp_path / "config.yaml")]) == config


def test_the_files_that_are_ready_to_use_are_valid(request):
    files = sorted((request.config.rootpath / "scripts" / "configs").glob("*.yaml"))
    assert len(files) >= 3
    for file in files:
        config = parse(COMMANDS["run"], ["--config", str(file)])
        assert set(yaml.safe_load(file.read_text())) <= set(as_dict(config))


def test_the_command_line_overrides_the_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("propose: {tau: 0.3, max_masks: 2}\nsource: {path: a}\n")
    config = parse(COMMANDS["propose"], ["--config", str(file), "--propose.tau=0.6", "--source.path", "b"])
    assert (config.propose.tau, config.propose.max_masks, config.source.path) == (0.6, 2, "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("propose: {taw: 0.3}", "no key 'propose.taw', did you mean 'propose.tau'"),
        ("backbone: {proposal_feature: {kin: key}}", "did you mean 'backbone.proposal_feature.kind'"),
        ("- a list", "must hold settings"),
        ("a: [", "not valid YAML"),
        ("# nothing yet", "holds no settings"),
        ("train: {epochs: many}", "train.epochs"),
        ("propose: 3", "propose: is a section"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, text, words):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        parse(COMMANDS["run"], ["--config", str(file)])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
