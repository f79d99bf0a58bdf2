#!/usr/bin/env bash
# Runs real clients of the Open Inference Protocol, unmodified from PyPI, against real servers.
#
# Usage: verify/conformance/run.sh [PYTEST-ARGUMENT]...
#
# Needs the programs (cargo build), the models (make models), redis-server and curl. Installs the
# clients into .cache/venv-* on the first run and after a change of the pinned versions.
set -euo pipefail
cd "$(dirname "$0")/../.."

scripts/venv.sh conformance '>=3.11,<3.14' verify/conformance/requirements.txt
scripts/venv.sh mlserver '>=3.11,<3.13' verify/conformance/requirements-mlserver.txt

exec .cache/venv-conformance/bin/python -m pytest -c verify/conformance/pytest.ini verify/conformance "$@"
