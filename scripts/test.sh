#!/usr/bin/env bash
# Makes the environment and runs the tests (under 10 minutes on 2 CPU cores).
#   bash scripts/test.sh [--no-install] [pytest arguments]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
if [ "${1:-}" = --no-install ]; then INSTAG_NO_INSTALL=1; shift; fi
ensure_environment preprocess,gpu,dev
ruff check .
ruff format --check .
exec python -m pytest "$@"
