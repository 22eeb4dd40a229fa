"""Files from anyone: only regular ones are read, and whatever is no JSON is one kind of error."""

import os

import pytest

from hf_relabel.config.json_file import read_json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": {"b": 1, "b": 1}}', "the key 'b' occurs twice"),
        (b"9" * 5000, "digits"),
        (b"\xff", "utf-8"),
        (b"{", "Expecting property name"),
    ],
)
def test_what_is_no_json_is_a_value_error(tmp_path, text, words):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "x.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(OSError, match="not a regular file"):
        read_json(tmp_path / "x.json")
