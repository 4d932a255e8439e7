#!/usr/bin/env bash
# Subject folder -> avatar.
#   bash scripts/adapt.sh data/<ID> output/<name> <GPU_ID or cpu> [instag adapt options]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
if [ $# -lt 2 ]; then echo "usage: bash scripts/adapt.sh data/<ID> output/<name> [GPU_ID or cpu] [options]" >&2; exit 2; fi
INSTAG_CALLER="$PWD"; ensure_environment preprocess; cd "$INSTAG_CALLER"
subject="$1" output="$2" device="${3:-auto}"
shift $(( $# < 3 ? $# : 3 ))
exec python -m instag.cli adapt "$subject" "$output" --device "$device" "$@"
