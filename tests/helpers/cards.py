"""Reading the tables of a dataset card."""

import re


def tables(card):
    """Every table of the card as rows of cells, apart from code; each row has as many cells as its header."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        assert len({len(row) for row in rows}) == 1, block
        assert set("".join(rows[1])) <= set("-")
        found.append([[cell.strip() for cell in row] for row in rows])
    return found
