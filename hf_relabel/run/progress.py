"""Progress on a terminal and in a log, and waiting for another process."""

import sys
import time
from typing import Any

from tqdm import tqdm

from hf_relabel.run.ranks import Rank

POLL_SECONDS = 0.5
LOG_SECONDS = 60.0
"""Time between two lines about the same thing in a log."""

QUIET_SECONDS = 5.0
"""A wait that is shorter is not mentioned."""


def say(line: str) -> None:
    """Write a line to the standard error stream, without breaking a progress bar."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Progress of a piece of work, shown by one process: a bar on a terminal; in a log, one full line per minute."""

    def __init__(self, total: int, name: str, unit: str, shown: bool):
        self._total, self._name, self._unit = total, name, unit
        self._shown = shown
        self._started = self._last = time.monotonic()
        self._done = self._skipped = 0
        self._notes = ""
        on_terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}", smoothing=0.05) if on_terminal else None

    def update(self, count: int = 1) -> None:
        """Count more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            say(self.line())

    def skip(self, count: int) -> None:
        """Count what was already there, or done by another process: it says nothing about the rate."""
        self._skipped += count
        if self._bar is not None:
            self._bar.initial += count
            self._bar.update(count)
        else:
            self.update(count)

    def note(self, **values: float) -> None:
        """Show values next to the progress, such as a loss."""
        self._notes = "".join(f", {name} {value:.3f}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._notes.removeprefix(", "), refresh=False)

    def line(self) -> str:
        """What a log shows: `proposals: 1,200 of 10,000 images (12%), 13.9 images/s, 10 min left`."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._done - self._skipped) / seconds
        share = self._done / self._total if self._total else 1.0
        left = f", {_duration((self._total - self._done) / rate)} left" if rate else ""
        speed = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{rate * 60:.1f} {self._unit}/min"
        done = f"{self._done:,} of {self._total:,} {self._unit} ({share:.0%})"
        return f"{self._name}: {done}, {speed}{left}{self._notes}"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def progress_bar(total: int, name: str, unit: str, rank: Rank) -> Progress:
    """Progress that the main process shows."""
    return Progress(total, name, unit, rank.is_main)


class Waiting:
    """A wait for another process: it pauses between two looks, and says what is waited for once per minute."""

    def __init__(self, what: str):
        self._what = what
        self._started = time.monotonic()
        self._next = self._started + QUIET_SECONDS

    def tick(self, holder: str | None) -> None:
        """Pause before the next look; `holder` is the process that is waited for."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            by = f", which {holder} is making" if holder else ""
            say(f"hf-relabel: waiting for {self._what}{by} ({_duration(now - self._started)} so far)")
        time.sleep(POLL_SECONDS)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
