#!/usr/bin/env bash
# Runs checkov on the rendered chart; fails if it reports more than the failures that SECURITY.md explains.
#
# Usage: helm/tests/checkov.sh [HELM-ARGUMENT]...    for example --values FILE
set -euo pipefail
cd "$(dirname "$0")/../.."

VERSION=3.3.30
EXPECTED=4
venv=.cache/venv-checkov

if ! "$venv/bin/checkov" --version 2>/dev/null | grep -qxF "$VERSION"; then
    echo "installing checkov $VERSION into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "checkov==$VERSION"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$(helm/tests/helm.sh)" template rel helm/batchfleet --namespace ns --kube-version 1.36.0 "$@" \
    >"$folder/chart.yaml" 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }
"$venv/bin/checkov" --file "$folder/chart.yaml" --framework kubernetes --compact --quiet --soft-fail \
    | tee "$folder/report"
failures=$(grep -oP 'Failed checks: \K[0-9]+' "$folder/report" || echo 0)
[ "$failures" -le "$EXPECTED" ]
