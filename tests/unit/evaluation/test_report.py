"""Result tables, JSON values, and the geometry of charts."""

import json
import math
from dataclasses import dataclass

import pytest
from PIL import Image

from hf_relabel.errors import UsageError
from hf_relabel.evaluation.report import plain, refuse_unwritable, render, write_results
from hf_relabel.pictures.charts import BLUE, Chart


def test_tables_are_aligned():
    text = render(["name", "n", "value"], [("a", 12, 0.5), ("longer", 3, math.nan), ("c", None, 1.0)])
    assert text.splitlines() == [
        "name     n   value",
        "------------------",
        "a       12  0.5000",
        "longer   3       -",
        "c        -  1.0000",
    ]


def test_json_values_contain_no_nan():
    @dataclass
    class Result:
        value: float
        parts: list

    value = plain({"a": Result(math.nan, [Result(1.0, [(1, 2)])])})
    assert json.loads(json.dumps(value, allow_nan=False)) == {
        "a": {"value": None, "parts": [{"value": 1.0, "parts": [[1, 2]]}]}
    }


def test_a_bar_is_drawn_at_its_values(tmp_path):
    chart = Chart("title", "x", "y", x_range=(0, 10), y_range=(0, 4))
    chart.y_ticks([0, 4], ["0", "4"])
    chart.bars([2], [4], [3])
    chart.line([0, 10], [4, 4], name="limit")
    chart.save(tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.format == "PNG"
        color = tuple(int(BLUE[i : i + 2], 16) for i in (1, 3, 5))

        def at(x, y):
            return picture.getpixel(tuple(map(round, chart.place(x, y)))) == color

        assert at(3, 1)
        assert at(3, 2.9)
        assert not at(3, 3.1)
        assert not at(1.9, 1)
        assert not at(4.1, 1)


def test_unwritable_result_files_are_refused(tmp_path):
    refuse_unwritable(None, str(tmp_path / "new.json"))
    for path in (tmp_path, tmp_path / "missing" / "results.json"):
        with pytest.raises(UsageError, match=r"cannot be written; give a file"):
            refuse_unwritable(str(path))
        with pytest.raises(UsageError, match="cannot be written"):
            write_results(str(path), {"a": 1})
