#!/usr/bin/env bash
# The paper's ablation tables on a corpus of subjects.
#   bash scripts/ablations.sh CORPUS OUTPUT [options]        (--help explains)
set -euo pipefail
source "$(dirname "$0")/environment.sh"
INSTAG_CALLER="$PWD"; ensure_environment preprocess; cd "$INSTAG_CALLER"
exec python "$ROOT/scripts/ablations.py" "$@"
