#!/usr/bin/env bash
# Asks the questions to a GPU of the processor, with small models: tests the script, and the paths that both
# devices share. Ends with "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/../.."

make --no-print-directory .cache/venv/ready >/dev/null
.cache/venv/bin/python -m py_compile verify/gpu/*.py
.cache/venv/bin/python verify/gpu/test_pack.py
.cache/venv/bin/python verify/gpu/gpu.py --device cpu --program target/debug/batchfleet \
    --library "${ORT_DYLIB_PATH:-.cache/onnxruntime/libonnxruntime.so}" --seconds 2
