"""Progress in a log: full lines, not more than one per minute."""

import re

from hf_relabel.run import progress
from hf_relabel.run.progress import Progress


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_log_has_one_full_line_per_minute(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with Progress(10_000, "proposals", "images", shown=True) as bar:
        bar.skip(4000)  # a resumed run: they say nothing about the rate
        for _ in range(1800):
            clock.now += 0.1
            bar.update()
    output = capsys.readouterr().err
    lines = output.splitlines()
    assert len(lines) == 2, output
    assert "\r" not in output
    assert re.fullmatch(r"proposals: 4,\d{3} of 10,000 images \(46%\), 10\.0 images/s, 9 min left", lines[0]), lines


def test_only_the_process_that_shows_progress_writes_it(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with Progress(10, "proposals", "images", shown=False) as bar:
        clock.now += 1000
        bar.update()
    assert capsys.readouterr().err == ""
