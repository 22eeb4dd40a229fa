#!/usr/bin/env bash
# The whole test suite. Options are passed on to pytest.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m pytest "$@"
