"""`python -m hf_relabel COMMAND`, also under `accelerate launch -m hf_relabel COMMAND`."""

import sys

from hf_relabel.cli import main

if __name__ == "__main__":
    sys.exit(main())
