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

# The clients of Triton and of KServe define messages of the same names, and protobuf allows only one
# definition in a process.
NO_TESTS=5 # pytest's status if the arguments select no test
suite=(.cache/venv-conformance/bin/python -m pytest -c verify/conformance/pytest.ini)
kserve=(verify/conformance/test_kserve.py verify/conformance/test_kserve_v1.py)
status=0
"${suite[@]}" verify/conformance "${kserve[@]/#/--ignore=}" "$@" || status=$?
if ((status != 0 && status != NO_TESTS)); then exit "$status"; fi
"${suite[@]}" "${kserve[@]}" "$@" || { kserve_status=$?; ((kserve_status == NO_TESTS && status == 0)); }
