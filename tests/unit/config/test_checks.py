"""Checks that settings and readers share."""

import pytest

from hf_relabel.config.checks import is_line


@pytest.mark.parametrize("text", ["", "a\nb", "a\x1b[31mb", "\x00", "\ud800"])
def test_what_is_no_line(text):
    assert not is_line(text)
    assert is_line("Straße, 日本 🦊")
