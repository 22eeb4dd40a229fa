"""A user's mistakes: one line that says what, where and what to do; status 2 for misuse, 1 for failure."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, config_of, write_config
from datasets import ClassLabel, Value
from PIL import Image

from hf_relabel.cli import OTHERS, PIPELINE, main


@pytest.fixture
def command(capfd):
    """Runs a command in this process, as starting another takes seconds; returns its status and its error lines."""

    def run_command(*arguments: object) -> tuple[int, list[str]]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, capfd.readouterr().err.splitlines()

    return run_command


@pytest.fixture
def refusal(command):
    """Runs a command that must fail with a status, and returns its one error line."""

    def refused_command(status: int, *arguments: object) -> str:
        found, errors = command(*arguments)
        lines = [line for line in errors if line.startswith("hf-relabel: error: ")]
        assert (found, len(lines)) == (status, 1), errors
        return lines[0]

    return refused_command


def test_every_command_has_help(capsys):
    for command in [*PIPELINE, *OTHERS]:
        assert main([command, "--help"]) == 0, command
        assert capsys.readouterr().out.startswith(f"usage: hf-relabel {command} ")


def test_output_that_is_cut_off_is_no_error(tmp_path):
    """As in `hf-relabel run --help | head -1`."""
    command = [sys.executable, "-m", "hf_relabel", "run", "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, cwd=tmp_path
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_no_command_and_unknown_commands(command, refusal):
    assert command()[0] == 2
    assert "'propose'" in refusal(2, "propse")


def test_unknown_keys_name_the_nearest_valid_one(tmp_path, refusal):
    line = refusal(2, "run", "--backbone.image_siz", "448")
    assert "'--backbone.image_size'" in line
    config = write_config(tmp_path / "config.yaml", propose={"taw": 0.3})
    line = refusal(2, "run", "--config", config)
    assert "propose.taw" in line
    assert "'propose.tau'" in line
    assert str(tmp_path / "config.yaml") in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--propose.tau", "5"], "propose.tau: must be at least 0 and below 1"),
        (["--backbone.dtype", "int8"], "backbone.dtype"),
        (["--train.epochs", "many"], "train.epochs"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--score.method", "label_map"], "score.label_maps"),
        ([], "source.path"),
        (["--build.version", "one"], "build.version"),
    ],
)
def test_values_that_no_run_could_use(arguments, words, tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(2, "run", *arguments)


def test_help_refusals_and_a_missing_source_need_no_heavy_import(tmp_path):
    """What makes them fast: none of them imports torch, transformers, datasets or the Hub's client."""
    code = """
import sys
from hf_relabel.cli import main
statuses = [main(line.split()) for line in sys.argv[1:]]
heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub', 'pyarrow', 'scipy'} & set(sys.modules)
assert not heavy, heavy
print(statuses)
"""
    lines = ["--help", "--version", "run --bad", "propse", "fit --bad", "publish", "evaluate --help", "audit --bad"]
    lines += ["run --source.path gone", "run --source.kind dataset --source.path /gone", "propose"]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 2, 2, 2, 2, 0, 2, 1, 1, 2]"


def test_a_refused_command_leaves_the_saved_configuration(tmp_path, image_folder, tiny_dinov3, command, refusal):
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    run = ["--config", config, "--run.dir", str(tmp_path / "run")]
    assert command("propose", *run)[0] == 0
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert "tau: 0.3" in saved
    refusal(1, "propose", *run, "--propose.tau", "0.5")
    refusal(1, "label", *run, "--label.top_k", "2")
    assert (tmp_path / "run" / "config.yaml").read_text() == saved
    assert command("score", *run, "--score.tau_label", "0.6", "--propose.tau", "0.5", "--run.overwrite")[0] == 0
    now = (tmp_path / "run" / "config.yaml").read_text()
    assert "tau_label: 0.6" in now
    assert "tau: 0.3" in now  # what the proposals were made with
    assert "overwrite: false" in now  # a request to one command


def test_a_missing_and_an_empty_folder(tmp_path, tiny_dinov3, refusal):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        config = config_of(tmp_path, tmp_path / name, tiny_dinov3)
        line = refusal(1, "run", "--config", config, "--run.dir", str(tmp_path / "run"))
        assert name in line


def test_all_images_corrupt(tmp_path, tiny_dinov3, refusal):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for k in range(6):
        (tmp_path / "images" / "cat" / f"{k}.jpg").write_bytes(b"junk")
    config = config_of(tmp_path, tmp_path / "images", tiny_dinov3)
    line = refusal(1, "run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert "images are errors, more than run.max_error_rate" in line


def test_an_output_folder_that_cannot_be_written(tmp_path, image_folder, tiny_dinov3, refusal):
    (tmp_path / "file").write_text("")
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    line = refusal(1, "run", "--config", config, "--run.dir", tmp_path / "file" / "run")
    assert "choose another --run.dir" in line


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root may write in")
def test_a_read_only_output_folder(tmp_path, image_folder, tiny_dinov3, refusal):
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    line = refusal(1, "run", "--config", config, "--run.dir", "/sys/kernel/run")
    assert "cannot write in /sys/kernel/run" in line
    assert "choose another --run.dir" in line


def test_a_configuration_changed_under_an_old_work_folder(tmp_path, image_folder, tiny_dinov3, command, refusal):
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    run = str(tmp_path / "run")
    assert command("propose", "--config", config, "--run.dir", run)[0] == 0
    line = refusal(1, "propose", "--config", config, "--run.dir", run, "--propose.tau", "0.5")
    assert "propose.tau: 0.3 -> 0.5" in line
    assert "--run.overwrite true" in line
    again = command("propose", "--config", config, "--run.dir", run, "--propose.tau", "0.5", "--run.overwrite", "true")
    assert again[0] == 0


def test_a_stage_without_the_one_before(tmp_path, image_folder, tiny_dinov3, refusal):
    config = config_of(tmp_path, image_folder, tiny_dinov3)
    for stage, before in (("score", "propose"), ("build", "propose")):
        line = refusal(1, stage, "--config", config, "--run.dir", str(tmp_path / "run"))
        assert f"run `hf-relabel {before}`" in line


def save_dataset(folder: Path, rows: dict, **features) -> None:
    """Write a dataset of tiny images to a Parquet file."""
    import datasets

    rows["image"] = [Image.new("RGB", (40, 40), (9 * k, 80, 90)) for k in range(len(rows["label"]))]
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(image=datasets.Image(), **features))
    folder.mkdir()
    dataset.to_parquet(folder / "all.parquet")


def dataset_config(tmp_path: Path, model: Path, **source) -> str:
    return config_of(tmp_path, tmp_path, model, source={"kind": "dataset", "path": str(tmp_path / "data"), **source})


def test_an_unknown_column(tmp_path, tiny_dinov3, refusal):
    save_dataset(tmp_path / "data", {"label": [0, 1]}, label=ClassLabel(names=["cat", "dog"]))
    config = dataset_config(tmp_path, tiny_dinov3, label_column="labl")
    line = refusal(1, "run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert "labl" in line
    assert "label" in line


def test_a_label_outside_the_class_list(tmp_path, tiny_dinov3, refusal):
    save_dataset(tmp_path / "data", {"label": [0, 7]}, label=Value("int64"))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    config = dataset_config(tmp_path, tiny_dinov3, class_names=str(tmp_path / "names.txt"))
    line = refusal(1, "run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert "7" in line


def test_duplicate_image_ids(tmp_path, tiny_dinov3, refusal):
    features = {"label": ClassLabel(names=["cat", "dog"]), "name": Value("string")}
    save_dataset(tmp_path / "data", {"label": [0, 1], "name": ["same", "same"]}, **features)
    config = dataset_config(tmp_path, tiny_dinov3, id_column="name")
    line = refusal(1, "run", "--config", config, "--run.dir", str(tmp_path / "run"))
    assert "same" in line


def test_names_do_not_command_the_terminal(refusal):
    """An error is one line, and shows what a terminal would obey."""
    assert refusal(1, "diff", "a\x1b[2Jb\nc", "d").startswith("hf-relabel: error: a\\x1b[2Jb\\nc: ")


def test_a_time_limit_of_the_hub_client_that_is_no_number(refusal, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    assert "HF_HUB_DOWNLOAD_TIMEOUT='soon': must be a number of seconds" in refusal(2, "diff", "a", "b")


def test_a_refused_build_leaves_the_settings_of_the_run(finished_run, tmp_path, command, refusal):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    build = ["build", "--config", run / "config.yaml", "--run.dir", run, "--build.calibrated", "false"]
    assert command(*build, "--build.version", "1.1.0", "--build.threshold", "0.01")[0] == 0
    before = (run / "config.yaml").read_text()
    assert "already exists" in refusal(1, *build, "--build.version", "1.1.0", "--build.threshold", "1.0")
    assert (run / "config.yaml").read_text() == before
