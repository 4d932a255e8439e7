# Sourced by the other scripts: makes .venv/ in the checkout on a bare machine, or uses the active environment.
#   ensure_environment EXTRAS     e.g. ensure_environment preprocess,dev
# Afterwards `python` is the environment's. INSTAG_NO_INSTALL=1 (or --no-install) uses the current python as it is.
# PYTHON names the interpreter for a new .venv (3.10-3.12); PIP_ARGS adds to pip, e.g. for a CPU-only torch:
#   PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "instag: no Python 3.10, 3.11 or 3.12 found (mediapipe has no wheels for newer ones): install one, or set PYTHON" >&2
    return 2
}

ensure_environment() {
    cd "$ROOT"
    if [ "${INSTAG_NO_INSTALL:-0}" = 1 ]; then return; fi
    local stamp=".venv/.installed" extras="$1" wanted start
    # With an NVIDIA GPU in the machine, what compiles our kernels for it comes along.
    if command -v nvidia-smi >/dev/null 2>&1 && [[ "$extras" != *gpu* ]]; then extras="$extras,gpu"; fi
    wanted="$extras $(cat setup.py constraints.txt | cksum)"
    if [ ! -x .venv/bin/python ]; then
        local interpreter
        interpreter="$(find_python)" || exit 2
        echo "instag: making .venv with $("$interpreter" --version)"
        "$interpreter" -m venv .venv
    fi
    export PATH="$ROOT/.venv/bin:$PATH" VIRTUAL_ENV="$ROOT/.venv"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        start=$SECONDS
        # torch first and by its exact version, so that nothing that follows can pull in another build of it.
        python -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} -c constraints.txt torch
        python -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} -c constraints.txt -e ".[$extras]"
        echo "$wanted" > "$stamp"
        echo "instag: installed in $((SECONDS - start)) s"
    fi
}
