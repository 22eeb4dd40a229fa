"""Bar and line charts drawn with Pillow and saved as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = "#222222", "#d8d8d8", "#ffffff"
BLUE, ORANGE = "#3b6fb6", "#d9822b"

_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 44, 20, 56  # margins in pixels


class Chart:
    """A chart with labeled axes. All data are in the units of the axes.

    Args:
        title: Text above the chart.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis, drawn above it.
        x_range: Minimum and maximum of the horizontal axis.
        y_range: Minimum and maximum of the vertical axis.
        size: Width and height in pixels.
    """

    def __init__(
        self,
        title: str,
        x_label: str,
        y_label: str,
        x_range: tuple[float, float] = (0.0, 1.0),
        y_range: tuple[float, float] = (0.0, 1.0),
        size: tuple[int, int] = (560, 420),
    ):
        self._image = Image.new("RGB", size, PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default(size=13)
        self._x_range, self._y_range = x_range, y_range
        self._left, self._top = _LEFT, _TOP
        self._right, self._bottom = size[0] - _RIGHT, size[1] - _BOTTOM
        self._legend: list[tuple[str, str]] = []
        self._draw.text((size[0] / 2, 8), title, INK, ImageFont.load_default(size=15), anchor="ma")
        middle = (self._left + self._right) / 2
        self._draw.text((middle, size[1] - 10), x_label, INK, self._font, anchor="ms")
        self._draw.text((8, _TOP - 14), y_label, INK, self._font, anchor="ls")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel coordinates of a point."""
        (x0, x1), (y0, y1) = self._x_range, self._y_range
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return self._left + across * (self._right - self._left), self._bottom - up * (self._bottom - self._top)

    def x_ticks(self, values: Sequence[float], labels: Sequence[str]) -> None:
        """Draw labels below the horizontal axis."""
        for value, label in zip(values, labels, strict=True):
            self._draw.text((self.place(value, 0)[0], self._bottom + 5), label, INK, self._font, anchor="ma")

    def y_ticks(self, values: Sequence[float], labels: Sequence[str]) -> None:
        """Draw labels next to the vertical axis, each with a faint line across the chart."""
        for value, label in zip(values, labels, strict=True):
            y = self.place(self._x_range[0], value)[1]
            self._draw.line([(self._left, y), (self._right, y)], FAINT)
            self._draw.text((self._left - 6, y), label, INK, self._font, anchor="rm")

    def bars(
        self, lefts: Sequence[float], rights: Sequence[float], heights: Sequence[float], color: str = BLUE
    ) -> None:
        """Draw bars that start at the minimum of the vertical axis."""
        for left, right, height in zip(lefts, rights, heights, strict=True):
            corner, foot = self.place(left, height), self.place(right, self._y_range[0])
            self._draw.rectangle([corner[0] + 1, corner[1], max(corner[0] + 1, foot[0] - 1), foot[1]], fill=color)

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str = INK, name: str | None = None) -> None:
        """Draw a line through points and, if it has a name, add it to the legend."""
        points = [self.place(x, y) for x, y in zip(xs, ys, strict=True)]
        self._draw.line(points, color, width=2)
        self.legend(name, color)

    def legend(self, name: str | None, color: str) -> None:
        """Add a color to the legend; without a name, do nothing."""
        if name:
            self._legend.append((name, color))

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Draw the axes and the legend over the data and write the PNG."""
        axes = [(self._left, self._top), (self._left, self._bottom), (self._right, self._bottom)]
        self._draw.line(axes, INK, width=1)
        for row, (name, color) in enumerate(self._legend):
            y = self._top + 8 + 18 * row
            self._draw.rectangle([self._left + 10, y, self._left + 22, y + 12], fill=color)
            self._draw.text((self._left + 28, y + 6), name, INK, self._font, anchor="lm")
        self._image.save(path, "PNG")
