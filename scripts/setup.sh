# Sourced by the other scripts: creates a virtual environment in the checkout with the package and pinned dependencies.
# It is reused until pyproject.toml or the pinned versions change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
stamp="$venv/installed"
wanted=$(cat pyproject.toml scripts/constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "setup: the pinned versions need Python 3.11 or later; choose one with PYTHON=python3.11" >&2
        exit 1
    fi
    echo "Installing hf_relabel and its pinned dependencies in $venv (once, a few minutes) ..."
    "${PYTHON:-python3}" -m venv --clear "$venv"
    # Install the exact version of torch first: with a version range, a machine without a GPU could get the CUDA build.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt torch==2.13.0
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt \
        --editable '.[dev]'
    echo "$wanted" > "$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"
# The demo and the tests download nothing from the Hub.
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
