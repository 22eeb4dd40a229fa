"""The command line: `hf-relabel COMMAND ...`, the same as `python -m hf_relabel COMMAND ...`.

    hf-relabel run --config imagenet.yaml --run.dir runs/imagenet

Commands import torch and the datasets library only when they run, so that help and refusals are printed immediately.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from hf_relabel import __version__
from hf_relabel.commands.help import help_of
from hf_relabel.commands.options import Command
from hf_relabel.commands.parser import nearest, parse
from hf_relabel.commands.pipeline import SUMMARIES as PIPELINE
from hf_relabel.errors import RelabelError, UsageError

OTHERS = {
    "annotate": "label photos with a finished labeler: labels, and a picture of each",
    "launch": "start a run with many tasks: on this machine, or by Slurm, Ray or Hugging Face Jobs",
    "demo": "run the pipeline on generated scenes and compare it with their known truth",
    "publish": "publish a release on the Hub: checked first, one commit, one tag that is never moved",
    "publish-labeler": "publish a finished labeler on the Hub, from where others can use it",
    "versions": "list the published versions of a dataset on the Hub",
    "diff": "show what changed between two releases, in folders or on the Hub",
    "import": "make a release from the paper's TSV, COCO JSON or ReLabel's files",
    "export": "write a release as the paper's TSV or COCO JSON, or for FiftyOne, YOLO or Label Studio; or label maps",
    "gallery": "write a page that shows a release's photos with masks, labels and scores",
    "figure": "draw photos of a release with their regions and labels, for papers and cards",
    "review": "check a sample of the added labels by hand: precision with an interval, corrections",
    "compare": "compare proposals, or labels, with their alternatives on images with known truth",
    "audit": "compare a release's labels with true labels: precision, recall, reliability of scores, confusions",
    "fit": "train an image classifier on a release",
    "evaluate": "evaluate an image classifier against single or multi-label truth",
    "label-maps": "make label maps with an image classifier, for score.method label_map",
    "transfer": "fine-tune a classifier on a multi-label dataset and report its mAP over classes",
}

MODULES = {
    "import": "import_release",
    "label-maps": "label_maps",
    "publish-labeler": "publish_labeler",
} | dict.fromkeys(PIPELINE, "pipeline")
"""Commands whose module has another name; `import` is a Python keyword."""

RESUMABLE = ("fit", "transfer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bugs keep their traceback.

    Returns:
        The exit status: 0, 1 for a failure, 2 for misuse, 130 after Ctrl-C, 141 if the reader of the output is gone.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _stop_output():
            raise
        return 141
    except RelabelError as error:
        print(f"hf-relabel: error: {_printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"hf-relabel: interrupted{_how_to_resume(arguments)}", file=sys.stderr)
        return 130


def _printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey: it may contain names from anyone's files."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _stop_output() -> bool:
    """Drop the rest of the output if its reader is gone, as in `hf-relabel diff ... | head`; returns whether it is."""
    try:
        print(flush=True)  # fails again if it was the output that failed, and not another pipe
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _how_to_resume(arguments: list[str]) -> str:
    command = arguments[0] if arguments else ""
    if command in PIPELINE or command in ("demo", "launch", "publish"):
        return "; run the same command again to resume"
    return "; add --resume to the same command to resume from its last checkpoint" if command in RESUMABLE else ""


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"hf-relabel {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in PIPELINE and name not in OTHERS:
        raise UsageError(f"no command {name!r}{nearest(name, [*PIPELINE, *OTHERS])}; see hf-relabel --help")
    commands: dict[str, Command[Any]] = commands_of(name)
    if name not in commands:  # a group: the next argument names the format
        formats = {key.split()[1]: command.summary for key, command in commands.items()}
        if not rest or rest[0] in ("-h", "--help"):
            print(_overview_of_formats(name, formats), file=sys.stdout if rest else sys.stderr)
            return 0 if rest else 2
        if rest[0] not in formats:
            raise UsageError(f"{name}: no format {rest[0]!r}{nearest(rest[0], list(formats))}; {', '.join(formats)}")
        name, rest = f"{name} {rest[0]}", rest[1:]
    command = commands[name]
    own = rest[: rest.index("--")] if "--" in rest else rest
    if "-h" in own or "--help" in own:
        print(help_of(command))
        return 0
    settings = parse(command, rest)
    _check_environment()
    return command.run(settings)


def _check_environment() -> None:
    """Refuse values with which the Hub client cannot even be imported."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit()):
            raise UsageError(f"{name}={value!a}: must be a number of seconds; correct or unset it")


def commands_of(name: str) -> dict[str, Command[Any]]:
    """Return the command of this name, or the formats of a group such as `export`."""
    commands: dict[str, Command[Any]] = importlib.import_module(
        f"hf_relabel.commands.{MODULES.get(name, name)}"
    ).COMMANDS
    return commands


def overview() -> str:
    """Return the help of `hf-relabel` itself."""
    width = max(map(len, [*PIPELINE, *OTHERS])) + 2
    lines = ["usage: hf-relabel COMMAND [--config FILE.yaml] [options]", ""]
    lines += ["The pipeline:"] + [f"  {name:<{width}}{text}" for name, text in PIPELINE.items()]
    lines += ["", "Other commands:"] + [f"  {name:<{width}}{text}" for name, text in OTHERS.items()]
    lines += ["", "hf-relabel COMMAND --help shows a command's settings and their defaults."]
    return "\n".join(lines)


def _overview_of_formats(name: str, formats: dict[str, str]) -> str:
    width = max(map(len, formats)) + 2
    lines = [f"usage: hf-relabel {name} FORMAT ...", ""]
    lines += [f"  {format_name:<{width}}{text}" for format_name, text in formats.items()]
    return "\n".join([*lines, "", f"hf-relabel {name} FORMAT --help shows a format's settings."])
