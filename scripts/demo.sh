#!/usr/bin/env bash
# The main job on the embedded default: generated scenes with known truth, a real ViT, every stage.
# Options are passed on to `hf-relabel demo`.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
hf-relabel demo "$@"
echo "(source $venv/bin/activate puts these commands on your path)"
