#!/usr/bin/env bash
# Tests the live page in a real browser, against real programs.
#
# Usage: verify/browser/run.sh [PYTEST-ARGUMENT]...
#
# Needs the programs (cargo build), the models (make models), redis-server and chromium. Installs
# Playwright into .cache/venv-browser on the first run and after a change of its versions.
set -euo pipefail
cd "$(dirname "$0")/../.."

scripts/venv.sh browser '>=3.11,<3.15' verify/browser/requirements.txt

exec .cache/venv-browser/bin/python -m pytest -c verify/browser/pytest.ini verify/browser "$@"
