"""Windows: a fixed grid of overlapping squares, which meets objects that no proposal covers."""

import numpy as np

SPAN = 1.75
"""Side of a window in units of the image's side divided by the number of windows per side: neighbors overlap by 3/7."""


def window_masks(per_side: int, grid: tuple[int, int]) -> np.ndarray:
    """Masks of the windows on the patch grid, row by row.

    With four windows per side, a window's side is 7/16 of the image's, which is where the labels of real photos were
    best (measured on PASCAL VOC 2012).

    Args:
        per_side: Windows per side; 0 for none.
        grid: Patches down and across, (h, w).

    Returns:
        bool [per_side ** 2, h, w].
    """
    masks = np.zeros((per_side, per_side, *grid), bool)
    if per_side:
        down, across = (_stretches(per_side, patches) for patches in grid)
        for row, rows in enumerate(down):
            for column, columns in enumerate(across):
                masks[row, column, rows, columns] = True
    return masks.reshape(-1, *grid)


def _stretches(per_side: int, patches: int) -> list[slice]:
    """The patches that each window covers along a side, spread evenly from edge to edge."""
    side = max(1, round(min(1.0, SPAN / per_side) * patches))
    starts = [round(start) for start in np.linspace(0, patches - side, per_side)]
    return [slice(start, start + side) for start in starts]
