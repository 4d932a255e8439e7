#!/usr/bin/env bash
# Files that some options want (LPIPS, SyncNet, parsers, depth): what for, licence, from where; fetches what may be fetched.
#   bash scripts/prepare.sh --list            the table
#   bash scripts/prepare.sh                   what evaluation wants: LPIPS and SyncNet
#   bash scripts/prepare.sh --only NAME       one file; an interrupted fetch goes on where it stopped
set -euo pipefail
source "$(dirname "$0")/environment.sh"
INSTAG_CALLER="$PWD"; ensure_environment preprocess; cd "$INSTAG_CALLER"
exec python "$ROOT/data_utils/prepare.py" "$@"
