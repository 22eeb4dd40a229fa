#!/usr/bin/env bash
# Check and measure the package on this machine's GPU, with the Python environment that is active:
#
#     bash scripts/gpu.sh [--out FOLDER] [further options of scripts/bench/gpu.py]
#
# It writes gpu.json and gpu.md, a table for scripts/bench/README.md. Nothing is installed or downloaded. It needs
# PyTorch with CUDA, the package's dependencies, and pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" scripts/bench/gpu.py "$@"
