"""The command line: `hf-relabel COMMAND ...`, the same as `python -m hf_relabel COMMAND ...`.

    hf-relabel run --config imagenet.yaml --run.dir runs/imagenet

The pipeline's commands take the configuration tree of `config.py`. torch and the datasets library are imported only
once a command has been understood, so help and refusals come at once.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

import jsonargparse
import yaml

from hf_relabel import __version__
from hf_relabel.config import Config
from hf_relabel.errors import RelabelError, UsageError

PIPELINE = {
    "run": "all stages: from photos to a release",
    "propose": "find object proposals and pool their features (one backbone forward an image)",
    "score": "choose the proposals that really show the original label",
    "train": "train the labeler on the chosen proposals",
    "label": "name every proposal with the labeler",
    "build": "write the release: a table of labels, scores and masks",
}

OTHERS = {
    "demo": "the whole pipeline on generated scenes, against their known truth",
    "publish": "a release on the Hub: checked first, one commit, one tag that is never moved",
    "versions": "the published versions of a dataset on the Hub",
    "diff": "what changed between two releases, in folders or on the Hub",
    "import": "a release, or proposals, from the paper's TSV, COCO JSON or ReLabel's files",
    "export": "a release as the paper's TSV, as COCO JSON or as a folder for FiftyOne",
    "audit": "a release's labels against a truth: precision, recall, calibration, confusions",
    "fit": "train an image classifier on a release",
    "evaluate": "an image classifier against single or multi-label truth",
    "transfer": "fine-tune a classifier on a multi-label dataset and report its mAP over classes",
}

MODULES = {"import": "import_release"}
"""Commands whose module has another name, as `import` is a word of Python's."""

RESUMABLE = ("fit", "transfer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failure, 2 for misuse. Bugs keep their traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except RelabelError as error:
        print(f"hf-relabel: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"hf-relabel: interrupted{_how_to_go_on(arguments)}", file=sys.stderr)
        return 130


def _how_to_go_on(arguments: list[str]) -> str:
    command = arguments[0] if arguments else ""
    if command in PIPELINE or command in ("demo", "publish"):
        return "; the same command goes on where it stopped"
    return "; the same command with --resume goes on from its last checkpoint" if command in RESUMABLE else ""


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"hf-relabel {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in PIPELINE:
        config = parse_config(command, rest)
        if config is None:
            return 0
        from hf_relabel.stages.pipeline import run_command

        return run_command(command, config)
    if command in OTHERS:
        module = importlib.import_module(f"hf_relabel.commands.{MODULES.get(command, command)}")
        parser = argparse.ArgumentParser(prog=f"hf-relabel {command}", description=module.__doc__.split("\n\n")[0])
        module.add_arguments(parser)
        try:
            parsed = parser.parse_args(rest)
        except SystemExit as end:  # argparse has printed its help or its one line
            return int(end.code or 0)
        return module.run(parsed)
    raise UsageError(f"no command {command!r}{_nearest(command, [*PIPELINE, *OTHERS])}; see hf-relabel --help")


def _overview() -> str:
    width = max(map(len, [*PIPELINE, *OTHERS])) + 2
    lines = ["usage: hf-relabel COMMAND [--config FILE.yaml] [--section.key VALUE ...]", ""]
    lines += ["The pipeline:"] + [f"  {name:<{width}}{text}" for name, text in PIPELINE.items()]
    lines += ["", "Beside it:"] + [f"  {name:<{width}}{text}" for name, text in OTHERS.items()]
    lines += ["", "hf-relabel COMMAND --help tells a command's settings and their defaults."]
    return "\n".join(lines)


def parse_config(command: str, arguments: list[str]) -> Config | None:
    """The configuration of a pipeline command; None where the arguments asked for help, which has been printed.

    Raises:
        UsageError: An unknown key (named, with the nearest valid one), a value of the wrong type, an unreadable file.
    """
    parser = _config_parser(command)
    if "-h" in arguments or "--help" in arguments:
        parser.print_help()
        return None
    _refuse_unknown_keys(arguments)
    try:
        parsed = parser.parse_args(arguments)
        return Config(**{name: getattr(parser.instantiate(parsed), name) for name in _sections()})
    except UsageError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        raise UsageError(_one_line(str(error))) from error


def _config_parser(command: str) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=f"hf-relabel {command}", description=PIPELINE[command], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings that differ from the defaults.")
    parser.add_class_arguments(Config)
    return parser


def _refuse_unknown_keys(arguments: list[str]) -> None:
    """Raise UsageError for the first key, on the command line or in a YAML file it names, that the tree has not."""
    known = known_keys()
    for position, argument in enumerate(arguments):
        if not argument.startswith("--"):
            continue
        key, has_value, value = argument[2:].partition("=")
        if key == "config":
            file = value if has_value else next(iter(arguments[position + 1 :]), "")
            for key in _keys_of_file(file):
                if key not in known:
                    raise UsageError(f"{file}: no key {key!r}{_nearest(key, known)}")
        elif key not in known:
            raise UsageError(f"--{key}: no such key{_nearest(key, known)}; see --help")


def _keys_of_file(file: str) -> list[str]:
    try:
        with open(file, encoding="utf-8") as stream:
            tree = yaml.safe_load(stream)
    except OSError as error:
        raise UsageError(f"--config {file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: not valid YAML ({_one_line(str(error))})") from error
    if tree is None:
        raise UsageError(f"--config {file}: holds no settings; write those that differ, or leave --config away")
    if not isinstance(tree, dict):
        raise UsageError(f"--config {file}: must hold sections such as `source:`, got {type(tree).__name__}")
    return _dotted(tree)


def _dotted(tree: dict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys += [f"{prefix}{name}"]
        if isinstance(value, dict):
            keys += _dotted(value, f"{prefix}{name}.")
    return keys


def _sections() -> list[str]:
    return [field.name for field in fields(Config)]


def known_keys(config_class: type = Config, prefix: str = "") -> list[str]:
    """Every key of the configuration tree, dotted."""
    keys = []
    for field in fields(config_class):
        keys.append(prefix + field.name)
        if is_dataclass(field.type):
            keys += known_keys(field.type, f"{prefix}{field.name}.")
    return keys


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _nearest(word: str, choices: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
