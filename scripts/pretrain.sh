#!/usr/bin/env bash
# Several subjects -> universal motion fields.
#   bash scripts/pretrain.sh data/pretrain output/<name> <GPU_ID or cpu> [instag pretrain options]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
if [ $# -lt 2 ]; then echo "usage: bash scripts/pretrain.sh data/pretrain output/<name> [GPU_ID or cpu] [options]" >&2; exit 2; fi
INSTAG_CALLER="$PWD"; ensure_environment preprocess; cd "$INSTAG_CALLER"
corpus="$1" output="$2" device="${3:-auto}"
shift $(( $# < 3 ? $# : 3 ))
exec python -m instag.cli pretrain "$corpus" "$output" --device "$device" "$@"
