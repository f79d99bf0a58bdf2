#!/bin/sh
# Fails if a library of ONNX Runtime in a worker image, or one that it needs, is missing. The driver's libcuda.so.1
# is mounted from the node.
#
# Usage: libraries.sh [FOLDER]      (default: the folder of the image)
set -eu
folder=${1:-/usr/local/bin/lib}
checked=0
failed=0
for library in "$folder"/libonnxruntime*.so; do
    checked=$((checked + 1))
    missing=$(LD_LIBRARY_PATH=$folder ldd "$library" | grep 'not found' | grep -v 'libcuda\.so\.1 ') || continue
    echo "$library: $missing" >&2
    failed=1
done
echo "$checked libraries checked"
[ -f "$folder/libonnxruntime.so" ] && [ "$failed" = 0 ]
