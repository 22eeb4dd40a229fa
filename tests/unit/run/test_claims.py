"""Claims: one process works, the others wait; what a dead process held is free."""

import json
import subprocess
import sys
import threading
import time

import pytest

from hf_relabel.errors import StageError
from hf_relabel.run import claims, progress
from hf_relabel.run.claims import Claims


def write_claim(path, pid: int = 1, host: str = "elsewhere") -> str:
    path.write_text(json.dumps({"id": "0" * 32, "host": host, "pid": pid}))
    return path.read_text()


def test_a_claim_keeps_others_away_while_its_owner_lives(tmp_path):
    with Claims(tmp_path).hold("a") as mine, Claims(tmp_path).hold("a") as other:
        assert mine
        assert not other
    with Claims(tmp_path).hold("a") as again:
        assert again
    assert not list(tmp_path.iterdir())


def test_a_claim_that_changes_hands_meanwhile_is_left_to_its_new_owner(tmp_path, monkeypatch):
    """Between seeing a claim and looking at it, its owner releases it and another process takes it."""
    claim = tmp_path / "a.claim"
    others = write_claim(claim)
    look = Claims._expired_owner

    def look_too_late(self, path):
        monkeypatch.setattr(Claims, "_expired_owner", look)
        path.unlink()
        try:
            return look(self, path)
        finally:
            path.write_text(others)

    monkeypatch.setattr(Claims, "_expired_owner", look_too_late)
    with Claims(tmp_path).hold("a") as mine:
        assert not mine
    assert claim.read_text() == others


def test_a_new_claim_in_place_of_an_expired_one_is_put_back(tmp_path, monkeypatch):
    """Two processes see the same expired claim; the slower one finds the faster one's claim and leaves it."""
    claim = tmp_path / "a.claim"
    expired = {"id": "1" * 32, "host": "elsewhere", "pid": 1}
    new = write_claim(claim)
    monkeypatch.setattr(Claims, "_expired_owner", lambda self, path: expired)
    with Claims(tmp_path).hold("a") as mine:
        assert not mine
    assert claim.read_text() == new


def test_the_claim_of_a_dead_process_has_expired(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_claim(tmp_path / "a.claim", dead.pid, Claims(tmp_path).owner["host"])
    with Claims(tmp_path).hold("a") as mine:
        assert mine


def test_a_claim_from_another_machine_expires_when_it_is_not_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.4)
    write_claim(tmp_path / "a.claim")
    with Claims(tmp_path).hold("a") as mine:
        assert not mine
    time.sleep(0.6)
    with Claims(tmp_path).hold("a") as mine:
        assert mine
        time.sleep(0.6)  # longer than the lease: the owner has renewed it meanwhile
        with Claims(tmp_path).hold("a") as other:
            assert not other


def test_an_owner_that_lost_its_claim_does_not_release_anothers(tmp_path):
    """A process that was suspended for longer than the lease wakes up when another one has taken over."""
    with Claims(tmp_path).hold("a") as mine:
        assert mine
        others = write_claim(tmp_path / "a.claim")
    assert (tmp_path / "a.claim").read_text() == others


def test_a_half_written_claim_is_respected_for_a_while(tmp_path, monkeypatch):
    (tmp_path / "a.claim").write_text("")
    with Claims(tmp_path).hold("a") as mine:
        assert not mine
    monkeypatch.setattr(claims, "NAMING_SECONDS", 0.1)
    time.sleep(0.3)  # its owner died before it could write its name
    with Claims(tmp_path).hold("a") as mine:
        assert mine


def test_one_makes_it_and_all_have_it(tmp_path):
    made, results = [], []

    def make() -> str:
        made.append(1)
        time.sleep(0.2)
        (tmp_path / "thing").write_text("thing")
        return "thing"

    def find() -> str | None:
        return (tmp_path / "thing").read_text() if (tmp_path / "thing").exists() else None

    def work() -> None:
        results.append(Claims(tmp_path).once("thing", "the thing", find, make))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == ["thing"] * 4
    assert made == [1]


def test_a_wait_says_for_what_and_for_whom_and_ends_when_that_process_fails(tmp_path, monkeypatch, capsys):
    """The other process's claim is not renewed any more: this process makes the thing itself, with its own error."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.4)
    write_claim(tmp_path / "labeler.claim", 4711, "node7")

    def fail() -> None:
        raise StageError("no region was kept")

    began = time.monotonic()
    with pytest.raises(StageError, match="no region was kept"):
        Claims(tmp_path).once("labeler", "the labeler", lambda: None, fail)
    assert time.monotonic() - began < 10
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith("hf-relabel: waiting for the labeler, which process 4711 on node7 is making")
