#!/usr/bin/env bash
# Generates the book's reference with the programs of target/debug; with --check, fails if a page is out of date.
#
# Usage: reference.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/.."

# The environment of the chart's tests, for its reader of YAML.
scripts/venv.sh chart '>=3.11,<3.14' helm/tests/requirements.txt
exec .cache/venv-chart/bin/python scripts/reference "$@"
