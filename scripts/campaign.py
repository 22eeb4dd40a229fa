"""Give broken and hostile inputs to the real commands: no traceback, no hang, nothing left out without a word.

    python scripts/campaign.py --images 2000 --maps 500 --releases 500 --models 200 --coco 200 --seed 0 [--minutes 5]

Every command runs in a forked child with a time limit and a memory limit. It must succeed, or end with exactly one
error line and exit status 1 or 2. Where it succeeds, all images must be accounted for, and an input that must be
refused is a failure. Prints each failure and a summary, and returns 1 if there was one.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faults
import mutations
from PIL import Image

from hf_relabel.cli import main as hf_relabel
from hf_relabel.release.reader import Release

LIMIT = 60.0
"""Seconds after which a command hangs; on an idle core the slowest takes about five."""

MEMORY = 12 << 30
"""Address space of a command in bytes."""

BATCH = 25
"""Mutated images, or label maps, per command."""


class Campaign:
    """Runs commands, judges how they end, and counts.

    Args:
        folder: Working folder.
        rng: Source of all choices.
    """

    def __init__(self, folder: Path, rng: random.Random):
        self.folder = folder
        self.rng = rng
        self.ends = float("inf")
        self.done = 0
        self.outcomes: Counter[str] = Counter()
        self.failures = 0

    def run(self, arguments: list[object], what: str, *, must_refuse: bool = False) -> tuple[int | None, str]:
        """Run a command; returns its status (None after a failure) and what it printed."""
        command = faults.Command(_limited, [str(argument) for argument in arguments], self.folder / "log")
        status = command.wait_for(LIMIT)
        text = command.text
        lines = [line for line in text.splitlines() if line.startswith("hf-relabel: error: ")]
        if status == -signal.SIGKILL:
            outcome = "HANG"
        elif status == 0:
            outcome = "ACCEPTED" if must_refuse else "accepted"
        else:
            is_one_line = status in (1, 2) and len(lines) == 1 and "Traceback" not in text
            outcome = "refused" if is_one_line else "TRACEBACK"
        self.count(outcome, f"{what}: hf-relabel {arguments[0]}", text)
        return (None if outcome.isupper() else status), text

    def count(self, outcome: str, what: str, text: str = "") -> None:
        """Count an outcome; one in capitals is a failure and is printed."""
        self.outcomes[outcome] += 1
        if outcome.isupper():
            self.failures += 1
            tail = "\n".join("    " + line[:300] for line in text.strip().splitlines()[-3:])
            print(f"{outcome}: {what}\n{tail}", flush=True)

    def places(self, number: int, step: int = 1) -> Iterator[int]:
        """Count from 0 to `number` until the time is over."""
        for self.done in range(0, number, step):
            if time.monotonic() > self.ends:
                return
            yield self.done
        self.done = number

    def end(self, name: str, began: float) -> None:
        """Print the summary of one kind of input."""
        print(f"{self.done} {name}: {dict(self.outcomes)} ({time.monotonic() - began:.0f} s)", flush=True)
        self.outcomes.clear()

    # Kinds of input.

    def images(self, number: int, settings: list[str]) -> None:
        """Mutated images, in folders with as many good ones; every file must be labeled, or excluded with a reason."""
        good = sorted((self.folder / "images").glob("*/*"))
        formats = ["png", "jpg", "gif", "webp", "bmp", "tiff"]
        for first in self.places(number, BATCH):
            source, run = self.folder / "mutated", self.folder / "run"
            for folder in (source, run):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.folder / "images", source)
            for place in range(first, min(first + BATCH, number)):
                original, suffix = self.rng.choice(good), self.rng.choice(formats)
                path = source / original.parent.name / f"mutated-{place:05d}.{suffix}"
                Image.open(original).save(path)
                path.write_bytes(mutations.mutate_bytes(path.read_bytes(), self.rng)[0])
            shared = ["--source.path", source, "--run.dir", run, "--run.max_error_rate", "1"]
            status, text = self.run([*settings, *shared], f"images from {first}")
            if status == 0:
                self._account(run / "release", sorted(path.name for path in source.glob("*/*")), text)

    def _account(self, release: Path, names: list[str], text: str) -> None:
        """Every image is in the release or among the excluded ones, with a reason."""
        opened = Release.open(release)
        labeled = [row["image_id"] for row in opened.rows("labels", ["image_id"])]
        excluded = [json.loads(line) for line in (release / "excluded.jsonl").read_text().splitlines()]
        found = sorted(Path(name).name for name in [*labeled, *(item["image_id"] for item in excluded)])
        if found != names or not all(item["reason"] for item in excluded):
            self.count("SILENT SKIP", f"{len(names)} images, {len(labeled)} labeled, {len(excluded)} excluded", text)
        self.outcomes["images labeled"] += len(labeled)
        self.outcomes["images excluded with a reason"] += len(excluded)

    def maps(self, number: int) -> None:
        """Mutated label maps in folders with some good ones."""
        import torch

        names = self.folder / "classes.txt"
        names.write_text("a\nb\nc\nd\ne\nf\n")
        logits = torch.randn(5, 15, 15, generator=torch.Generator().manual_seed(0))
        classes = torch.arange(5)[:, None, None].expand(5, 15, 15).float()
        good = self.folder / "good.pt"
        torch.save(torch.stack([logits, classes]), good)
        odd = [logits, {"x": 1}, [1], torch.zeros(2, 5, 0, 15), torch.zeros(2, 0, 15, 15), torch.zeros(2, 5, 1, 1)]
        odd += [torch.full((2, 5, 3, 3), value) for value in (-1.0, 9.0, 0.5, 1e30, float("nan"))]
        odd += [torch.zeros(2, 5, 3, 3, dtype=kind) for kind in (torch.bool, torch.complex64, torch.int64)]
        odd += [torch.zeros(2, 5, 3, 3).to_sparse(), torch.zeros(2, 5, 3, 3, device="meta"), None, "x"]
        odd += [torch.zeros(1).expand(2, 5, 40_000, 40_000), torch.quantize_per_tensor(logits, 0.1, 0, torch.qint8)]
        for first in self.places(number, BATCH):
            folder = self.folder / "maps"
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "a").mkdir(parents=True)
            shutil.copy(good, folder / "a" / "good.pt")
            count = min(BATCH, number - first)
            for place in range(count):
                path = folder / "a" / f"{place}.pt"
                kind = self.rng.random()
                if kind < 0.3:
                    torch.save(self.rng.choice(odd), path)
                elif kind < 0.34:
                    os.mkfifo(path)
                elif kind < 0.38:
                    path.symlink_to(self.rng.choice(["/dev/zero", "gone", path.name]))
                else:
                    path.write_bytes(mutations.mutate_bytes(good.read_bytes(), self.rng)[0])
            release = self.folder / "from-maps"
            shutil.rmtree(release, ignore_errors=True)
            command = ["import", "relabel", folder, release, "--class-names", names]
            status, text = self.run(command, f"label maps from {first}")
            if status == 0:
                counted = Release.open(release).statistics
                if counted["images"] + counted["excluded_images"] != count + 1:
                    self.count("SILENT SKIP", f"{count + 1} maps: {counted['images']} images", text)
                self.outcomes["maps excluded with a reason"] += counted["excluded_images"]

    def releases(self, number: int, good: Path) -> None:
        """Tampered releases, each given to `publish` and to one other command."""
        tampers = [mutations.tamper_manifest, mutations.tamper_rows, mutations.tamper_files]
        truth = self.folder / "truth.jsonl"
        ids = [f"{path.parent.name}/{path.name}" for path in sorted((self.folder / "images").glob("*/*"))]
        truth.write_text("".join(json.dumps({"image_id": image_id, "labels": [0]}) + "\n" for image_id in ids))
        for place in self.places(number):
            release = self.folder / "tampered"
            for path in (release, self.folder / "out"):
                shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(good, release)
            what, must_refuse = tampers[place % 3](release, self.rng)
            what = f"release {place}, {what}"
            publish = ["publish", release, "user/name", "--version", "1.0.0", "--license", "mit", "--dry-run"]
            self.run(publish, what, must_refuse=must_refuse)
            others: list[list[object]] = [
                ["diff", good, release],
                ["diff", release, good, "--changelog"],
                ["export", "coco", release, self.folder / "out"],
                ["export", "tsv", release, self.folder / "out", "--overwrite"],
                ["export", "yolo", release, self.folder / "out"],
                ["gallery", release, "--images", self.folder / "images", "--out", self.folder / "out"],
                ["audit", release, "--truth", truth],
            ]
            (self.folder / "out").unlink(missing_ok=True)
            self.run(self.rng.choice(others), what)

    def coco(self, number: int, good: Path) -> None:
        """Changed COCO files for `import coco`."""
        exported = self.folder / "good.json"
        assert self.run(["export", "coco", good, exported], "the release as it is")[0] == 0
        content = exported.read_bytes()
        for place in self.places(number):
            path, release = self.folder / "changed.json", self.folder / "from-coco"
            shutil.rmtree(release, ignore_errors=True)
            if place % 4:
                text, what = mutations.mutate_json(json.loads(content), self.rng)
                path.write_text(text)
            else:
                changed, what = mutations.mutate_bytes(content, self.rng)
                path.write_bytes(changed)
            self.run(["import", "coco", path, release], f"COCO file {place}, {what}")

    def models(self, number: int, settings: list[str]) -> None:
        """Changed model folders for `propose`."""
        import transformers

        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
        kinds = {"DINOv3ViT": {"intermediate_size": 64}, "ViT": {"intermediate_size": 64}, "Dinov2WithRegisters": {}}
        good = [self.folder / "model"]
        for kind, more in kinds.items():
            config = getattr(transformers, f"{kind}Config")(**shape, **more)
            good.append(self.folder / f"model-{kind}")
            getattr(transformers, f"{kind}Model")(config).save_pretrained(good[-1])
        few = self.folder / "few"
        for path in sorted((self.folder / "images").glob("*/*0.png")):
            (few / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, few / path.parent.name)
        for place in self.places(number):
            model, run = self.folder / "broken-model", self.folder / "run"
            for folder in (model, run):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good[place % len(good)], model)
            what = mutations.break_model(model, self.rng)
            shared = ["--source.path", few, "--backbone.model", model, "--run.dir", run]
            self.run(["propose", *settings[1:], *shared], f"model {place}, {what}")


def _limited(arguments: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return hf_relabel(arguments)


def main() -> int:
    """Run all kinds of input; returns 1 if a command failed in another way than it should."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, number in (("images", 2000), ("maps", 500), ("releases", 500), ("models", 200), ("coco", 200)):
        parser.add_argument(f"--{name}", type=int, default=number, help=f"number of {name}")
    parser.add_argument("--seed", type=int, default=0, help="seed of all faults")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time limit of each kind")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        campaign = Campaign(Path(name), random.Random(options.seed))
        settings = faults.make_settings(Path(name))
        good = Path(name) / "good" / "release"
        done = faults.Command(_limited, [*settings, "--run.dir", str(good.parent)], Path(name) / "log").wait_for(120)
        assert done == 0, (Path(name) / "log").read_text()
        kinds = {
            "models": lambda number: campaign.models(number, settings),
            "maps": campaign.maps,
            "releases": lambda number: campaign.releases(number, good),
            "coco": lambda number: campaign.coco(number, good),
            "images": lambda number: campaign.images(number, settings),
        }
        for kind, run in kinds.items():
            if not getattr(options, kind):
                continue
            began = time.monotonic()
            campaign.ends = began + 60 * options.minutes
            # A seed of its own, so that a kind does not depend on how many there were of others.
            campaign.rng = random.Random(f"{options.seed} {kind}")
            run(getattr(options, kind))
            campaign.end(kind, began)
    return int(campaign.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
