import numpy as np
import pytest
from PIL import Image

from hf_relabel.pictures.charts import BLUE, FAINT, INK, ORANGE, PAPER, Chart


@pytest.fixture
def drawn(tmp_path):
    """Save a chart and return a function from pixel coordinates to color."""

    def drawn(chart):
        chart.save(tmp_path / "chart.png")
        with Image.open(tmp_path / "chart.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        return lambda x, y: "#{:02x}{:02x}{:02x}".format(*pixels[round(y), round(x)])

    return drawn


def test_points_are_placed_by_the_axes():
    chart = Chart("title", "x", "y", x_range=(10, 20), y_range=(-1, 1), size=(560, 420))
    left, bottom = chart.place(10, -1)
    right, top = chart.place(20, 1)
    assert 0 < left < right < 560
    assert 0 < top < bottom < 420
    assert chart.place(15, 0) == ((left + right) / 2, (top + bottom) / 2)


def test_a_line_goes_through_its_points(drawn):
    chart = Chart("title", "x", "y", x_range=(0, 2), y_range=(0, 2))
    chart.line([0, 1, 2], [0, 2, 1], ORANGE)
    at = drawn(chart)
    assert at(*chart.place(0.5, 1)) == at(*chart.place(1.5, 1.5)) == ORANGE
    assert at(*chart.place(0.5, 1.5)) == PAPER


def test_tick_lines_cross_the_chart_below_the_bars(drawn):
    chart = Chart("title", "x", "y", x_range=(0, 4), y_range=(0, 2))
    chart.y_ticks([1], ["1"])
    chart.bars([1], [2], [2])
    at = drawn(chart)
    assert at(*chart.place(0.5, 1)) == at(*chart.place(3, 1)) == FAINT
    assert at(*chart.place(1.5, 1)) == BLUE
    assert at(*chart.place(0, 0.5)) == INK, "the axis"


def test_the_legend_lists_named_data(drawn):
    chart = Chart("title", "x", "y")
    chart.legend("first", BLUE)
    chart.legend(None, INK)
    chart.line([0, 1], [0, 0.1], ORANGE, name="second")
    at = drawn(chart)
    left, top = chart.place(0, 1)
    assert at(left + 16, top + 14) == BLUE
    assert at(left + 16, top + 32) == ORANGE
    assert at(left + 16, top + 50) == PAPER


def test_labels_and_values_must_have_the_same_number():
    chart = Chart("title", "x", "y")
    with pytest.raises(ValueError, match="zip"):
        chart.x_ticks([0, 1], ["0"])
    with pytest.raises(ValueError, match="zip"):
        chart.bars([0], [1, 2], [1])
