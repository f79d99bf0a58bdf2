#!/usr/bin/env bash
# Runs real clients of the Open Inference Protocol, as PyPI has them, against real servers.
#
# Usage: conformance/run.sh [PYTEST-ARGUMENT]...
#
# Needs the programs (cargo build), the models (make models), redis-server and curl. Installs the
# clients into .cache/venv-* the first time and after their pinned versions change.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
uv=.cache/venv-uv/bin/uv

if ! "$uv" --version 2>/dev/null | grep -qF "uv $UV_VERSION "; then
  echo "installing uv $UV_VERSION, which installs the clients"
  python3 -m venv .cache/venv-uv
  .cache/venv-uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi

# install NAME PYTHON REQUIREMENTS: brings .cache/venv-NAME to exactly the pinned versions. Where no
# such Python is installed, uv fetches one.
install() {
  local venv=.cache/venv-$1 python=$2 requirements=conformance/$3
  if ! cmp --silent "$requirements" "$venv/requirements.txt"; then
    echo "installing the clients of $requirements into $venv"
    "$uv" venv --quiet --clear --python "$python" "$venv"
    "$uv" pip sync --python "$venv/bin/python" "$requirements"
    cp "$requirements" "$venv/requirements.txt"
  fi
}

install conformance '>=3.11,<3.14' requirements.txt
install mlserver '>=3.11,<3.13' requirements-mlserver.txt

exec .cache/venv-conformance/bin/python -m pytest -c conformance/pytest.ini conformance "$@"
