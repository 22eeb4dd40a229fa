"""Progress bars, and waiting for what another process makes."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from hf_relabel.run.ranks import Rank

POLL_SECONDS = 0.5


def progress_bar(total: int, name: str, unit: str, rank: Rank) -> tqdm:
    """A progress bar with rate and time left, shown by the main process; in a log, a line a minute at most."""
    interval = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(total=total, desc=name, unit=f" {unit}", disable=not rank.is_main, mininterval=interval, smoothing=0.05)


def wait_for(ready: Callable[[], Any]) -> Any:
    """Wait until `ready()` gives something, and return it: how other ranks wait for what the main process makes."""
    while (found := ready()) is None:
        time.sleep(POLL_SECONDS)
    return found
