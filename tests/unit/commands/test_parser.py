"""One parser for all commands: flags, positional arguments, YAML files, and what is refused."""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from hf_relabel.cli import OTHERS, PIPELINE, commands_of
from hf_relabel.commands.help import help_of
from hf_relabel.commands.options import Command, option, options_of, positional
from hf_relabel.commands.parser import parse
from hf_relabel.errors import UsageError


@dataclass(frozen=True)
class Training:
    """Training.

    Args:
        lr: Learning rate.
        loss: Loss.
    """

    lr: float = 0.1
    loss: Literal["bce", "asymmetric"] = "bce"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Own.

    Args:
        source: Where from.
        target: Where to.
        version: Version.
        batch_size: Images.
        flip: Mirror.
        seed: Seed.
        dry_run: Do nothing.
        tag: Tags.
        name: Name.
        folder: Folder.
        training: Training.
    """

    source: str = positional("SOURCE")
    target: Path = positional("TARGET")
    version: str = field(metadata={"metavar": "VERSION"})
    batch_size: int = 8
    flip: bool = True
    seed: int = 0
    dry_run: bool = False
    tag: list[str] = field(default_factory=list)
    name: str | None = None
    folder: Path | None = option(None, "FOLDER")
    training: Training


COMMAND = Command(name="copy", summary="copy", settings=Settings, run=lambda settings: 0)
GIVEN = ["a", "b", "--version", "1.0"]


def test_positional_arguments_flags_and_values_in_any_order():
    settings = parse(
        COMMAND, ["--dry-run", "a", "--batch-size=4", "--version", "1.0", "b", "--no-flip", "--lr", "1e-3"]
    )
    assert settings == Settings(
        source="a", target=Path("b"), version="1.0", batch_size=4, flip=False, dry_run=True, training=Training(lr=1e-3)
    )


def test_a_switch_may_have_a_value():
    settings = parse(COMMAND, [*GIVEN, "--dry-run", "true", "--flip", "false"])
    assert (settings.dry_run, settings.flip) == (True, False)


def test_lists_paths_and_texts_that_look_like_numbers():
    settings = parse(COMMAND, [*GIVEN, "--tag", "x", "--tag", "y", "--folder", "c", "--name", "2"])
    assert (settings.tag, settings.folder, settings.name) == (["x", "y"], Path("c"), "2")
    assert parse(COMMAND, ["a", "-", "--version", "-"]).target == Path("-")


def test_the_command_line_overrides_the_files_wherever_they_stand(tmp_path):
    (tmp_path / "a.yaml").write_text("batch-size: 2\nlr: 1\nsource: from-file\nversion: '2.0'\ntag: [t]\n")
    (tmp_path / "b.yaml").write_text("batch_size: 3\nflip: false\n")
    files = ["--config", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}"]
    settings = parse(COMMAND, ["--lr", "2", *files, "--tag", "u", "given", "b"])
    assert (settings.training.lr, settings.batch_size, settings.flip) == (2.0, 3, False)
    assert (settings.source, settings.version, settings.tag) == ("given", "2.0", ["u"])
    assert parse(COMMAND, [*files, "b", "c", "--tag", "[]"]).tag == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*GIVEN, "--batch-sise", "4"], ["--batch-sise", "'--batch-size'"]),
        ([*GIVEN, "-b", "4"], ["-b"]),
        ([*GIVEN, "--no-lr"], ["--no-lr"]),
        ([*GIVEN, "c"], ["unexpected argument 'c'"]),
        ([*GIVEN, "--lr"], ["--lr", "value is missing"]),
        ([*GIVEN, "--lr", "--flip"], ["--lr", "value is missing"]),
        ([*GIVEN, "--lr", "fast"], ["--lr", "a number", "'fast'"]),
        ([*GIVEN, "--batch-size", "2.5"], ["--batch-size", "a whole number", "2.5"]),
        ([*GIVEN, "--batch-size", "null"], ["--batch-size: must be a whole number, got 'None'"]),
        ([*GIVEN, "--batch-size", "9" * 400], ["--batch-size: must be at most 4294967295"]),
        ([*GIVEN, "--lr", "nan"], ["--lr: must be a number"]),
        ([*GIVEN, "--lr", "9" * 400], ["a number is too large"]),
        ([*GIVEN, "--seed", "-5"], ["--seed: must be 0 or more"]),
        ([*GIVEN, "--loss", "l2"], ["--loss", "bce, asymmetric", "'l2'"]),
        (["a", "--version", "1"], ["TARGET is missing"]),
        (["a", "b"], ["--version is missing"]),
    ],
)
def test_what_is_refused_on_the_command_line(arguments, words):
    with pytest.raises(UsageError) as refused:
        parse(COMMAND, arguments)
    assert all(word in str(refused.value) for word in words), str(refused.value)
    assert "\n" not in str(refused.value)


BOMB = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijk"))
"""Each list contains the one before nine times."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_sise: 3", ["'batch_sise'", "'batch_size'"]),
        ("batch_size: many", ["batch_size: must be a whole number", "'many'"]),
        ("flip: 3", ["flip: must be true or false"]),
        ("lr: {a: 1}", ["lr: must be a number"]),
        ("3", ["must hold settings"]),
        ("a: [", ["not valid YAML"]),
        ("# nothing", ["holds no settings"]),
        ("batch_size: !!null 5", ["--batch-size: must be a whole number, got null"]),
        ("batch_size: !!int ''", ["not valid YAML"]),
        ("lr: .inf", ["--lr: must be a finite number"]),
        ("lr: !!float x", ["not valid YAML"]),
        ("flip: !!bool x", ["not valid YAML"]),
        ("name: 2020-13-45", ["not valid YAML"]),
        ("name: !!timestamp x", ["not valid YAML"]),
        ("name: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
        ("name: &a [*a]", ["not valid YAML"]),
        ("? &a {b: *a}\n: 1", ["not valid YAML"]),
        ("[" * 5000, ["not valid YAML"]),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + BOMB, ["aliases stand for more than 100,000 values"]),
        ("#" * 1_000_001, ["1,000,001 bytes"]),
        ("batch_size: 3\nbatch_size: 4", ["not valid YAML", "the key 'batch_size' occurs twice", "line 2"]),
        ("training: {lr: 1}\nname: x\ntraining: {loss: bce}", ["the key 'training' occurs twice", "line 3"]),
    ],
)
def test_what_is_refused_in_a_file(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError) as refused:
        parse(COMMAND, [*GIVEN, "--config", str(tmp_path / "c.yaml")])
    where = [] if words[0].startswith("--") else [str(tmp_path / "c.yaml")]
    assert all(word in str(refused.value) for word in [*words, *where]), str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nul"])
def test_a_file_of_settings_that_is_no_file(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    names = {"pipe": tmp_path / "pipe", "device": "/dev/zero", "folder": tmp_path, "nul": "a\0b"}
    with pytest.raises(UsageError, match="cannot be read"):
        parse(COMMAND, [*GIVEN, "--config", str(names[kind])])


EVERY = [command for name in [*PIPELINE, *OTHERS] for command in commands_of(name).values()]


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command.name)
def test_every_command_has_unique_options_that_its_help_explains(command):
    options = options_of(command)
    assert len({item.key for item in options}) == len(options)
    assert all(item.help for item in options)
    text = help_of(command)
    shown = {item.key for item in options if (item.metavar if item.positional else item.flag) in text}
    hidden = {item.key for item in options if not command.reads_key(item.key)}
    assert shown >= {item.key for item in options} - hidden
    assert "\n  --no-" not in text, "a switch is described by what it does when it is on"
    assert not any(f"--{key} " in text for key in hidden)


def test_common_settings_exist_and_come_first():
    for command in EVERY:
        keys = [item.key for item in options_of(command)]
        assert set(command.common) <= set(keys), command.name
        assert all(command.reads_key(key) for key in command.common), command.name
    lines = help_of(commands_of("build")["build"]).splitlines()
    first = [line.split()[0] for line in lines if line.startswith("  --")][:5]
    assert first == ["--config", "--run.dir", "--build.threshold", "--build.version", "--build.name"]


def test_the_command_that_launch_starts_comes_last_in_its_usage():
    usage = help_of(commands_of("launch")["launch"]).splitlines()[0]
    assert usage == "usage: hf-relabel launch [--config FILE.yaml] [options] -- COMMAND..."


def test_settings_that_others_read_are_accepted_with_a_note(tmp_path, capsys):
    build = commands_of("build")["build"]
    (tmp_path / "c.yaml").write_text("source: {path: photos}\npropose: {tau: 0.1}\n")
    assert parse(build, ["--config", str(tmp_path / "c.yaml")]).propose.tau == 0.1
    assert capsys.readouterr().err == ""
    assert parse(build, ["--propose.tau", "0.2", "--build.threshold", "0.6"]).propose.tau == 0.2
    note = capsys.readouterr().err
    assert "--propose.tau" in note
    assert "--build.threshold" not in note
