#!/usr/bin/env bash
# Sets up .venv from requirements.lock: pinned versions, hashes checked, byte code compiled. Called by make.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 not found (looked for \$PYTHON, python3.11 and python3): install it, or run make PYTHON=/path/to/python3.11"
}

create_environment() {
    local python=$1
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian and Ubuntu keep these in a package of their own.
        echo "setup: this Python lacks venv; installing python3.11-venv"
        if [ "$(id -u)" = 0 ]; then sudo=(); else sudo=(sudo); fi
        { "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq python3.11-venv; } ||
            fail "could not install python3.11-venv; install it and call make again"
    fi
    "$python" -m venv --clear .venv
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "needs Linux on x86_64, this is $(uname -sm): see BUILD.md for Docker"
python=$(find_python)
.venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || create_environment "$python"

# uv installs wheels for a newer glibc than pip lets through; relax_glibc.py then makes them load on this one.
if [ ! -x .venv/bin/uv ]; then
    awk '/^[a-z]/ { chosen = /^uv==/ } chosen' requirements.lock > .venv/uv.lock
    .venv/bin/python -m pip install --quiet --require-hashes -r .venv/uv.lock
fi
echo "setup: installing the pinned packages into .venv (about 1 GB to download, a few minutes)"
.venv/bin/uv pip sync --quiet --python .venv/bin/python \
    --python-platform x86_64-manylinux_2_39 --require-hashes --build-constraints requirements.lock --compile-bytecode requirements.lock
.venv/bin/python tools/relax_glibc.py
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
.venv/bin/python -m compileall -q beam_transforms keras_models tfx_pipeline serving benchmarks foresight.py
touch .venv/ready
