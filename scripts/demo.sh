#!/usr/bin/env bash
# Run the whole pipeline on generated scenes with known ground truth and a real ViT. Options go to `hf-relabel demo`.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
hf-relabel demo "$@"
echo "(source $venv/bin/activate puts these commands on your PATH)"
