"""Draw the data flow of the pipeline, the picture in the README.

python scripts/draw_pipeline.py [FILE]
"""

import sys
from html import escape
from pathlib import Path

DEFAULT_FILE = Path(__file__).with_name("pipeline.svg")

STEPS = [
    ("source", "an image folder or any\ndataset with one label\nper image", ""),
    (
        "propose",
        "one forward pass of a frozen\nViT per image: masks, and\nfeatures of each region",
        "writes proposals/",
    ),
    ("score", "which regions show the\nimage's own label, which\nonly background?", "writes scores/"),
    ("train", "the labeler, on the features\nof these regions, and what\nits scores are worth", "writes labeler/"),
    ("label", "the labeler's classes for\nevery region, and labels of\neach image with scores", "writes regions/"),
    ("build", "the tables of labels, scores\nand masks, and the card", "writes release/"),
    ("publish", "checks, one commit, an\nimmutable version tag", "uploads to the Hub"),
    ("use", "load_dataset a version;\nfit, evaluate, audit, export", ""),
]
"""Name, description and output of each step, in the order of the data."""

COLUMNS = 4
WIDTH, HEIGHT, GAP, MARGIN = 250, 128, 34, 14
PAPER, INK, FAINT, EDGE = "#ffffff", "#1f2328", "#59636e", "#3b6fb6"
STAGE, OUTSIDE = "#eaf1fb", "#f6f8fa"


def main() -> None:
    """Write the SVG."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILE
    path.write_text(draw(), encoding="utf-8")
    print(path)


def draw() -> str:
    """Return the picture: boxes in rows of `COLUMNS`, connected by arrows."""
    rows = -(-len(STEPS) // COLUMNS)
    size = (2 * MARGIN + COLUMNS * WIDTH + (COLUMNS - 1) * GAP, 2 * MARGIN + rows * HEIGHT + (rows - 1) * GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        "<title>Data flow of hf_relabel</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{EDGE}"/></marker></defs>',
        f'<rect width="{size[0]}" height="{size[1]}" fill="{PAPER}"/>',
    ]
    for number, (name, description, output) in enumerate(STEPS):
        parts.append(box(*corner(number), name, description, output))
        if number:
            parts.append(arrow(number - 1, number))
    return "\n".join([*parts, "</svg>"]) + "\n"


def corner(number: int) -> tuple[int, int]:
    """Return the left and top of a box."""
    row, column = divmod(number, COLUMNS)
    return MARGIN + column * (WIDTH + GAP), MARGIN + row * (HEIGHT + GAP)


def box(left: int, top: int, name: str, description: str, output: str) -> str:
    """Draw a box with a name, a description and, at the bottom, its output."""
    fill = STAGE if output else OUTSIDE
    parts = [
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{fill}" stroke="{EDGE}"/>',
        text(left + 14, top + 28, name, INK, 'font-size="18" font-weight="bold"'),
    ]
    for line, words in enumerate(description.splitlines()):
        parts.append(text(left + 14, top + 52 + 19 * line, words, INK, 'font-size="15"'))
    if output:
        parts.append(text(left + 14, top + HEIGHT - 12, output, FAINT, 'font-size="14"'))
    return "\n".join(parts)


def arrow(start: int, end: int) -> str:
    """Draw an arrow from one box to the next, around the end of a row if necessary."""
    (left, top), (to_left, to_top) = corner(start), corner(end)
    if top == to_top:
        path = f"M{left + WIDTH} {top + HEIGHT // 2} H{to_left - 2}"
    else:
        middle = to_top - GAP // 2
        path = f"M{left + WIDTH // 2} {top + HEIGHT} V{middle} H{to_left + WIDTH // 2} V{to_top - 2}"
    return f'<path d="{path}" fill="none" stroke="{EDGE}" stroke-width="2" marker-end="url(#head)"/>'


def text(x: int, y: int, words: str, color: str, style: str) -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" fill="{color}" {style}>{escape(words)}</text>'


if __name__ == "__main__":
    main()
