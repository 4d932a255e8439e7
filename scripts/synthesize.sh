#!/usr/bin/env bash
# Avatar + audio -> mp4 with sound.
#   bash scripts/synthesize.sh output/<name> speech.wav talking.mp4 [instag synthesize options]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
INSTAG_CALLER="$PWD"; ensure_environment preprocess; cd "$INSTAG_CALLER"
exec python -m instag.cli synthesize "$@"
