#!/usr/bin/env bash
# Run the test suite; `--fast` as the first option skips the tests marked slow. Other options go to pytest.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ "${1:-}" = --fast ]; then
    set -- -m "not slow" "${@:2}"
fi
# The models are tiny: further threads would only wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# A worker for each core, but few enough for the memory; a file's tests share its fixtures, so they stay together.
exec python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile "$@"
