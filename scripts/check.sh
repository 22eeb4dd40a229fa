#!/usr/bin/env bash
# Check the code without running it: lint, format, types, and imports between the package's layers.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ruff check .
ruff format --check .
mypy
lint-imports
