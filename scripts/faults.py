"""Inject faults into tiny runs: flipped bits in intermediate files, and kills at random moments.

    python scripts/faults.py --flips 200 --kills 40 --seed 0

A flipped bit must be noticed (one line, exit status 1) or have no effect on any table, and `--run.overwrite true` must
bring the original tables back. After a kill, or several, the same command must finish with the original tables, and a
killed overwrite must not be mistaken for a finished stage. Every command runs in a forked child, so nothing is imported
twice. Kills of `publish`: `scripts/publish_faults.py`.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hf_relabel.cli import main as hf_relabel

STAGES = ("proposals", "scores", "labeler", "regions")
CLASSES, IMAGES_PER_CLASS = 3, 8


def main() -> int:
    """Run both trials and print a summary; returns 1 if a fault went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=200, help="bits to flip")
    parser.add_argument("--kills", type=int, default=40, help="kills of `run` at random moments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = make_settings(folder)
        began = time.monotonic()
        done = Command(hf_relabel, [*arguments, "--run.dir", str(folder / "good")], folder / "log").wait()
        seconds = time.monotonic() - began
        assert done.status == 0, done.text
        trials = [flips(folder, arguments, options.flips, rng), kills(folder, arguments, options.kills, seconds, rng)]
    return int(any(trials))


def make_settings(folder: Path) -> list[str]:
    """Write images and a small random model; returns the arguments of `run`."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for number in range(CLASSES * IMAGES_PER_CLASS):
        pixels = rng.integers(0, 40, (48, 56, 3), dtype=np.uint8)
        top, left = rng.integers(0, 24, 2)
        pixels[top : top + 20, left : left + 24, number % CLASSES] += 180
        path = folder / "images" / f"class-{number % CLASSES}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**shape, patch_size=8, image_size=64)).save_pretrained(folder / "model")
    settings = {
        "source.path": folder / "images",
        "backbone.model": folder / "model",
        "backbone.image_size": 64,
        "propose.tau": 0.3,
        "train.hidden": 16,
        "train.epochs": 6,
        "build.threshold": 0.2,
        "run.shard_size": 4,
        "run.threads": 1,
    }
    return ["run", *(f"--{key}={value}" for key, value in settings.items())]


class Command:
    """A command in a forked child, with its output in a file.

    Args:
        hf_relabel: Runs the command and returns its exit status.
        arguments: Its arguments.
        log: The file.
    """

    def __init__(self, hf_relabel: Callable[[list[str]], int], arguments: list[str], log: Path):
        self.log = log
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = 70  # an exception that is not one of ours
            try:
                status = hf_relabel(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def wait(self) -> "Command":
        """Wait for the end; `status` is negative after a signal."""
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self

    def wait_for(self, seconds: float) -> int:
        """Wait for the end, and kill the child after some seconds; returns the status."""
        ends = time.monotonic() + seconds
        while (done := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > ends:
                os.kill(self.pid, signal.SIGKILL)
                done = os.waitpid(self.pid, 0)
                break
            time.sleep(0.01)
        self.status = os.waitstatus_to_exitcode(done[1])
        return self.status

    def kill_after(self, seconds: float) -> "Command":
        """Kill the child after some seconds, unless it has ended."""
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def text(self) -> str:
        """What it printed."""
        return self.log.read_text()


def tables(run: Path) -> dict[str, object]:
    """Every table of a run and its release, and every feature file and head."""
    found: dict[str, object] = {}
    for path in [*run.glob("*/shard-*.parquet"), *run.glob("release/data/*/*.parquet")]:
        found[str(path.relative_to(run))] = pq.read_table(path)
    for path in [*run.glob("*/*.npy"), *run.glob("*/*.safetensors")]:
        found[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def is_equal(run: Path, good: Path) -> bool:
    """Whether two runs have the same tables, footers included."""
    a, b = tables(run), tables(good)
    return a.keys() == b.keys() and all(
        value.equals(b[key], check_metadata=True) if hasattr(value, "equals") else value == b[key]
        for key, value in a.items()
    )


def flips(folder: Path, arguments: list[str], count: int, rng: random.Random) -> int:
    """Flip bits, one per copy of the finished run, and let the later stages work again; returns the failures."""
    outcomes: Counter[str] = Counter()
    good = folder / "good"
    files = sorted([*good.glob("source*"), *(path for stage in STAGES for path in (good / stage).glob("*"))])
    for _ in range(count):
        run = folder / "flipped"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good, run)
        path = run / rng.choice(files).relative_to(good)
        content = bytearray(path.read_bytes())
        place = rng.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        # Whatever was made from the file is made again from it.
        stage = STAGES.index(path.parent.name) if path.parent.name in STAGES else -1
        for later in [*STAGES[stage + 1 :], "release", "overlays"] if stage >= 0 else ["release", "overlays"]:
            shutil.rmtree(run / later, ignore_errors=True)
        if path.name.startswith("bootstrap"):  # read by its own stage, for the shards that are left to do
            for made in [*path.parent.glob("shard-*"), path.parent / "manifest.json"]:
                made.unlink()
        command = [*arguments, "--run.dir", str(run)]
        done = Command(hf_relabel, command, folder / "log").wait()
        if done.status == 0:
            outcome = "no effect" if is_equal(run, good) else "WRONG TABLES"
        else:
            is_one_line = done.status == 1 and "Traceback" not in done.text and "hf-relabel: error: " in done.text
            outcome = "noticed" if is_one_line else "TRACEBACK"
            again = Command(hf_relabel, [*command, "--run.overwrite", "true"], folder / "log-again").wait()
            if again.status != 0 or not is_equal(run, good):
                outcome += ", NOT REPAIRED"
        outcomes[outcome] += 1
        if outcome.upper() == outcome or "," in outcome:
            print(f"{path.relative_to(run)}, bit {place}: {outcome}\n{done.text[-2000:]}", flush=True)
    print(f"{count} flipped bits: {dict(outcomes)}", flush=True)
    return count - outcomes["no effect"] - outcomes["noticed"]


def kills(folder: Path, arguments: list[str], count: int, seconds: float, rng: random.Random) -> int:
    """Kill `run` at random moments, and every third time `propose` while it overwrites; returns the failures.

    A killed `run` goes on from where a kill has left it, once to four times, before it may finish.
    """
    outcomes: Counter[str] = Counter()
    run, good = folder / "killed", folder / "good"
    command = [*arguments, "--run.dir", str(run)]
    number = 0
    while outcomes["killed"] - outcomes["killed while overwriting"] < count:
        number += 1
        is_overwrite = number % 3 == 2 and run.exists()
        changed = ["propose", *command[1:], "--propose.tau", "0.15", "--run.overwrite", "true"]
        killed = Command(hf_relabel, changed if is_overwrite else command, folder / "log")
        killed.kill_after(rng.uniform(0, seconds))
        is_killed = killed.status == -signal.SIGKILL
        outcomes["killed" if is_killed else "ended before"] += 1
        outcomes["killed while overwriting"] += is_killed and is_overwrite
        seconds *= 1.0 if is_killed or is_overwrite else 0.95  # the first run was the slowest
        if not is_overwrite and is_killed and rng.random() < 0.6:
            continue
        if not is_overwrite:
            done = Command(hf_relabel, command, folder / "log").wait()
            is_good = done.status == 0 and is_equal(run, good)
            outcomes["finished with the tables of an uninterrupted run" if is_good else "WRONG TABLES"] += 1
            if not is_good:
                print(done.text[-2000:], flush=True)
            shutil.rmtree(run, ignore_errors=True)
            continue
        # The first settings again: refused because of the mixture, or the original tables.
        done = Command(hf_relabel, command, folder / "log").wait()
        if done.status == 0:
            outcomes["original tables after a killed overwrite"] += is_equal(run, good)
            outcomes["WRONG TABLES"] += not is_equal(run, good)
            continue
        is_refused = done.status == 1 and "--run.overwrite true" in done.text and "Traceback" not in done.text
        outcomes["mixture refused" if is_refused else "TRACEBACK"] += 1
        if not is_refused:
            print(done.text[-2000:], flush=True)
        done = Command(hf_relabel, [*command, "--run.overwrite", "true"], folder / "log").wait()
        outcomes["overwritten to the original tables" if is_equal(run, good) else "WRONG TABLES"] += 1
    done = Command(hf_relabel, [*command, "--run.overwrite", "true"], folder / "log").wait()
    outcomes["WRONG TABLES"] += done.status != 0 or not is_equal(run, good)
    left = [path.name for path in run.rglob("*") if path.suffix == ".claim"]
    print(f"{count} kills: {dict(+outcomes)}; claims left at the end: {left}", flush=True)
    return outcomes["WRONG TABLES"] + outcomes["TRACEBACK"]


if __name__ == "__main__":
    sys.exit(main())
