# Sourced by demo.sh and test.sh: a virtual environment in the checkout with the package and pinned versions.
# Made once; used again as long as pyproject.toml and the pins are the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv
stamp="$venv/installed"
wanted=$(cat pyproject.toml scripts/constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "setup: the pinned versions need Python 3.11 or later; name one with PYTHON=python3.11" >&2
        exit 1
    fi
    echo "Installing hf_relabel and its pinned dependencies in $venv (once, some minutes) ..."
    "${PYTHON:-python3}" -m venv --clear "$venv"
    # torch first and by its exact version: a machine without a GPU must not get the CUDA build by way of a range.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt torch==2.13.0
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt \
        --editable '.[test]'
    echo "$wanted" > "$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"
# Nothing of the embedded default comes from the Hub.
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
