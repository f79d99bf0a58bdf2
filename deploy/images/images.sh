#!/usr/bin/env bash
# Makes the images from programs of target/release. The Dockerfile alone can build the programs as well,
# more slowly and with the same result.
#
# Usage: images.sh build [OPTION...]   builds batchfleet/gateway:dev, batchfleet/controller:dev and
#                                      batchfleet/worker:dev; options are those of `docker build`
#        images.sh save FOLDER         also writes FOLDER/gateway.tar etc. and redis.tar, for
#                                      `docker load`, `ctr images import` and buildah
#
# CUDA=1 also builds batchfleet/worker-cuda:dev, for drivers from 580 on, and CUDA12=1 batchfleet/worker-cuda12:dev, for
# older ones; each downloads 1.5 GB from PyPI. TENSORRT_SHA256=HASH builds batchfleet/worker-tensorrt:dev from the wheel
# with this hash, which https://pypi.nvidia.com/tensorrt-cu13-libs lists.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/images/engine.sh

LAID_OUT=target/images

build() {
    local image network revision
    lay_out
    revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
    for image in "${IMAGES[@]}"; do
        network=none
        case $image in worker-*) network=host ;; esac
        "${docker[@]}" build "$@" --quiet --network "$network" --file deploy/images/Dockerfile \
            --target "$image" --tag "batchfleet/$image:$TAG" \
            --build-arg ORIGIN=prebuilt --build-arg "BASE=$BASE" \
            --build-arg "TENSORRT_SHA256=${TENSORRT_SHA256:-}" \
            --build-arg "SOURCE_DATE_EPOCH=$(epoch)" \
            --build-arg "VERSION=$TAG" --build-arg "REVISION=$revision" . >/dev/null
        "${docker[@]}" image ls --format '{{.Repository}}:{{.Tag}}  {{.Size}}' "batchfleet/$image:$TAG"
    done
}

# Lays out the files that the Dockerfile's `prebuilt` stages copy.
lay_out() {
    rm -rf "$LAID_OUT"
    mkdir -p "$LAID_OUT/programs" "$LAID_OUT/lib" "$LAID_OUT/certificates"
    cp target/release/batchfleet{,-gateway,-worker,-controller} "$LAID_OUT/programs"
    cp "${ORT_DYLIB_PATH:-.cache/onnxruntime/libonnxruntime.so}" "$LAID_OUT/lib/libonnxruntime.so"
    cp .cache/certificates/ca-certificates.crt "$LAID_OUT/certificates"
    mkdir "$LAID_OUT/licenses"
    cp LICENSE "$LAID_OUT/licenses"
    scripts/notice.py "$LAID_OUT/licenses/NOTICE"
}

save() {
    local image
    mkdir -p "$1"
    build
    redis_image
    for image in "${IMAGES[@]}" redis; do
        "${docker[@]}" save --output "$1/$image.tar" "batchfleet/$image:$TAG"
        SOURCE_DATE_EPOCH=$(epoch) scripts/image_archive.py "$1/$image.tar"
        echo "$1/$image.tar  batchfleet/$image:$TAG"
    done
}

engine
case ${1:-} in
    build) build "${@:2}" ;;
    save) save "${2:?save needs a folder}" ;;
    *)
        echo "usage: images.sh build | save FOLDER" >&2
        exit 64
        ;;
esac
