#!/usr/bin/env bash
# Video -> subject folder.
#   bash scripts/process.sh clip.mp4 data/<ID> [instag process options]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
INSTAG_CALLER="$PWD"; ensure_environment preprocess; cd "$INSTAG_CALLER"
exec python -m instag.cli process "$@"
