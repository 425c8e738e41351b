#!/usr/bin/env bash
# Sets up .venv from requirements.lock: pinned versions, hashes checked, byte code compiled. Called by make.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_python_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if is_python_311 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 not found (tried ${PYTHON:-python3.11, python3}).
  Debian 12:     apt-get install python3.11-venv
  Ubuntu 24.04:  add-apt-repository ppa:deadsnakes/ppa && apt-get install python3.11-venv
  elsewhere:     make setup PYTHON=/path/to/python3.11"
}

create_environment() {
    local python=$1 sudo=()
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian and Ubuntu keep these in a package of their own.
        echo "setup: $python lacks venv: installing the package python3.11-venv"
        [ "$(id -u)" = 0 ] || sudo=(sudo)
        { "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -y -qq python3.11-venv; } ||
            fail "could not install python3.11-venv: install it as root (apt-get install python3.11-venv) and call make again"
    fi
    "$python" -m venv --clear .venv
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "needs Linux on x86_64, this is $(uname -sm): see BUILD.md, \"Other machines\""
rm -f .venv/ready
if ! { is_python_311 .venv/bin/python && .venv/bin/python -c 'import pip'; } 2>/dev/null; then
    python=$(find_python)
    create_environment "$python"
fi

# uv installs wheels for a newer glibc than pip lets through; relax_glibc.py then makes them load on this one.
if [ ! -x .venv/bin/uv ]; then
    awk '/^[a-z]/ { chosen = /^uv==/ } chosen' requirements.lock > .venv/uv.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
fi
echo "setup: installing the pinned packages into .venv (the first time 1 GB to download and a few minutes)"
.venv/bin/uv pip sync --quiet --python .venv/bin/python --python-platform x86_64-manylinux_2_39 \
    --require-hashes --build-constraints requirements.lock --compile-bytecode requirements.lock
.venv/bin/python tools/relax_glibc.py
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-index --no-deps --no-build-isolation \
    --config-settings editable_mode=compat --editable .
.venv/bin/python -m compileall -q beam_transforms keras_models tfx_pipeline serving foresight.py
touch .venv/ready
