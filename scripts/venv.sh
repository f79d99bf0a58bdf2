#!/usr/bin/env bash
# Installs exactly the pinned versions of a requirements file into .cache/venv-NAME. If no matching Python
# is installed, uv fetches one. Silent when the environment is up to date.
#
# Usage: venv.sh NAME PYTHON REQUIREMENTS     for example: venv.sh browser '>=3.11' verify/browser/requirements.txt
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
uv=.cache/venv-uv/bin/uv
venv=.cache/venv-$1 python=$2 requirements=$3

if cmp --silent "$requirements" "$venv/requirements.txt"; then
  exit
fi
if ! "$uv" --version 2>/dev/null | grep -qF "uv $UV_VERSION "; then
  echo "installing uv $UV_VERSION, which installs the Python packages"
  python3 -m venv .cache/venv-uv
  .cache/venv-uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi
echo "installing $requirements into $venv"
"$uv" venv --quiet --clear --python "$python" "$venv"
"$uv" pip sync --python "$venv/bin/python" "$requirements"
cp "$requirements" "$venv/requirements.txt"
