import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hf_relabel.errors import OutputError, StageError
from hf_relabel.run import store
from hf_relabel.run.store import Fingerprint, atomic_open, differences, read_json, read_record, write_json, write_record


def test_fingerprint_depends_on_values_not_on_order():
    assert Fingerprint({"a": 1, "b": {"c": 2, "d": 3}}).digest == Fingerprint({"b": {"d": 3, "c": 2}, "a": 1}).digest
    assert Fingerprint({"a": 1}).digest != Fingerprint({"a": 2}).digest


def test_differences_names_leaves():
    old = {"propose": {"tau": 0.4, "max_masks": 3}, "seed": 0}
    new = {"propose": {"tau": 0.5, "max_masks": 3}, "views": 2, "seed": 0}
    assert differences(old, new) == ["propose.tau: 0.4 -> 0.5", "views: null -> 2"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"version": 1})
    with pytest.raises(RuntimeError, match="half way"), atomic_open(path, "w") as file:
        file.write("{")
        raise RuntimeError("half way")
    assert read_json(path) == {"version": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path):
    code = f"""
import time
from pathlib import Path
from hf_relabel.run.store import atomic_open
with atomic_open(Path({str(tmp_path)!r}) / "shard.parquet") as file:
    file.write(b"half"); file.flush(); print("writing", flush=True); time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "shard.parquet").exists()


def test_a_full_disk_is_one_line_with_path_and_reason(tmp_path):
    with (
        pytest.raises(OutputError, match=r"file\.json: cannot be written \(No space left on device\); free disk space"),
        atomic_open(tmp_path / "file.json"),
    ):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "missing" / "file.json", 1)


def test_a_changed_record_is_noticed(tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path) is None
    write_record(path, {"digest": "ab", "counters": {"images": 10}})
    assert read_record(path) == {"digest": "ab", "counters": {"images": 10}}
    path.write_text(path.read_text().replace("10", "11"))
    with pytest.raises(StageError, match=r"record\.json: damaged.*remove the file and run the stage again"):
        read_record(path)
    path.write_bytes(b"{\xff")
    with pytest.raises(StageError, match=r"record\.json: not valid JSON"):
        read_record(path)


def test_many_may_make_one_folder_at_the_same_time(tmp_path):
    target = tmp_path / "run"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.make_folder(target), range(64)))
    assert list(target.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=r"run\.dir: cannot write in .*choose another --run\.dir"):
        store.make_folder(tmp_path / "file" / "run")
