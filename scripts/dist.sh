#!/usr/bin/env bash
# Makes the artifacts of a release in a folder: programs, images, the chart, the bill of materials and all digests. Equal
# commits give equal bytes, in any clone of a user: with the same compiler and the same base image. `IMAGES=` (empty) leaves
# the images out.
#
# Usage: dist.sh FOLDER      (called by `make dist`)
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
HELM=${HELM:-$(helm/tests/helm.sh)}
export SOURCE_DATE_EPOCH HELM
version=$(scripts/version.py)
name=batchfleet-$version-linux-$(uname -m)

rm -rf "$folder"
mkdir -p "$folder/$name/lib"
# Each program holds the list of its crates (cargo auditable), which `make build` alone leaves out.
for program in batchfleet{,-gateway,-worker,-controller}; do
    [[ $(readelf --section-headers --wide "target/release/$program") = *.dep-v0* ]] || {
        echo "target/release/$program has no list of its crates: run make dist" >&2
        exit 1
    }
done
# The programs need glibc 2.34 or later. Workers find ONNX Runtime in the folder lib beside them.
cp target/release/batchfleet{,-gateway,-worker,-controller} LICENSE "$folder/$name"
cp "${ORT_DYLIB_PATH:-.cache/onnxruntime/libonnxruntime.so}" "$folder/$name/lib/libonnxruntime.so"
scripts/notice.py "$folder/$name/NOTICE"
scripts/archive.py "$folder/$name" "$folder/$name.tar.gz"
rm -r "${folder:?}/$name"

scripts/sbom.py "$folder/batchfleet.spdx.json"
scripts/chart_package.py "$folder"
if [ -n "${IMAGES-all}" ]; then
    TAG=$version deploy/images/images.sh save "$folder/images"
fi
(cd "$folder" && find . -type f ! -name SHA256SUMS | sort | xargs sha256sum >SHA256SUMS)
cat "$folder/SHA256SUMS"
