#!/usr/bin/env bash
# Two people can be made to speak: a procedural one, or the one in a clip of yours.
#   bash scripts/demo.sh [--no-install] [clip.mp4] [speech.wav]
# Makes .venv/ on a bare machine, then runs process -> adapt -> synthesize -> evaluate at a size that suits the machine.
# Results: output/demo/{talking.mp4,metrics.json,report.html}; everything else below output/demo/steps/.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
arguments=()
for argument in "$@"; do
    if [ "$argument" = --no-install ]; then INSTAG_NO_INSTALL=1; continue; fi
    # Relative paths are the caller's, not the checkout's.
    case "$argument" in /* | -*) ;; *) argument="$PWD/$argument" ;; esac
    arguments+=("$argument")
done
ensure_environment preprocess
exec python scripts/demo.py "${arguments[@]}"
