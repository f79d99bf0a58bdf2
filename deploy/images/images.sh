#!/usr/bin/env bash
# Makes the images from programs that were built outside, which is faster than the Dockerfile's own
# way; the result is the same.
#
# Usage: images.sh build [OPTION...]   batchfleet/gateway:dev, batchfleet/controller:dev,
#                                 batchfleet/worker:dev; options are those of `docker build`
#        images.sh save FOLDER    builds them, and writes FOLDER/gateway.tar and so on, and redis.tar,
#                                 as `docker load`, `ctr images import` and buildah read them
#
# With CUDA=1 in the environment batchfleet/worker-cuda:dev as well: 1.5 GB are fetched from PyPI.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/images/engine.sh

IMAGES=(gateway controller worker ${CUDA:+worker-cuda})
TAG=${TAG:-dev}
LAID_OUT=target/images

build() {
    local image network revision
    lay_out
    revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
    for image in "${IMAGES[@]}"; do
        network=none
        [ "$image" != worker-cuda ] || network=host
        "${docker[@]}" build "$@" --quiet --network "$network" --file deploy/images/Dockerfile \
            --target "$image" --tag "batchfleet/$image:$TAG" \
            --build-arg ORIGIN=prebuilt --build-arg "BASE=$BASE" \
            --build-arg "SOURCE_DATE_EPOCH=$(epoch)" \
            --build-arg "VERSION=$TAG" --build-arg "REVISION=$revision" . >/dev/null
        "${docker[@]}" image ls --format '{{.Repository}}:{{.Tag}}  {{.Size}}' "batchfleet/$image:$TAG"
    done
}

# The time of the commit.
epoch() {
    echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
}

# What the Dockerfile's `prebuilt` stages copy.
lay_out() {
    rm -rf "$LAID_OUT"
    mkdir -p "$LAID_OUT/programs" "$LAID_OUT/lib" "$LAID_OUT/certificates"
    cp target/release/batchfleet{,-gateway,-worker,-controller} "$LAID_OUT/programs"
    cp "${ORT_DYLIB_PATH:-.cache/onnxruntime/libonnxruntime.so}" "$LAID_OUT/lib/libonnxruntime.so"
    cp .cache/certificates/ca-certificates.crt "$LAID_OUT/certificates"
}

save() {
    local image
    mkdir -p "$1"
    build
    for image in "${IMAGES[@]}"; do
        "${docker[@]}" save --output "$1/$image.tar" "batchfleet/$image:$TAG"
        echo "$1/$image.tar"
    done
    image=$(redis_image)
    "${docker[@]}" save --output "$1/redis.tar" "$image"
    echo "$1/redis.tar  $image"
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
