#!/usr/bin/env bash
# Run the test suite; `--fast` as the first option skips the tests marked slow. Other options go to pytest.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ "${1:-}" = --fast ]; then
    set -- -m "not slow" "${@:2}"
fi
exec python -m pytest "$@"
