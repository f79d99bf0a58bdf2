#!/usr/bin/env bash
# Brings the images of images.sh and the image of the bundled Redis to a cluster. Writes target/images.yaml: the chart's
# values that name these images, for `helm install --values`.
#
# Usage: deliver.sh                            only writes the values; the nodes have the images already
#        deliver.sh archived                   the same after images.sh save, which also makes the image of Redis
#        deliver.sh load kind|k3d|minikube     loads the images into the nodes of the cluster CLUSTER, by default the one
#                                              that the tool uses without a name
#        deliver.sh push REGISTRY              pushes the images to a registry, whose address may have a path
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/images/engine.sh

VALUES=target/images.yaml
mapfile -t NAMES < <(printf "batchfleet/%s:$TAG\n" "${IMAGES[@]}" redis)

load() {
    local image archive=target/image.tar
    mkdir -p target
    for image in "${NAMES[@]}"; do
        echo "loading $image"
        "${docker[@]}" save --output "$archive" "$image"
        case $1 in
            kind) kind load image-archive "$archive" --name "${CLUSTER:-kind}" ;;
            k3d) k3d image import "$archive" --cluster "${CLUSTER:-k3s-default}" ;;
            minikube) minikube image load "$archive" --profile "${CLUSTER:-minikube}" ;;
        esac
        rm -f "$archive"
    done
}

push() {
    local image
    for image in "${NAMES[@]}"; do
        "${docker[@]}" tag "$image" "$1/$image"
        "${docker[@]}" push --quiet "$1/$image"
    done
}

# values [LINE...]: writes the values, with further lines of `images`.
values() {
    mkdir -p target
    printf '%s\n' "# The images of \`make images\`." "images:" "  tag: $TAG" "$@" >"$VALUES"
    echo "wrote $VALUES: helm install batchfleet helm/batchfleet --values $VALUES"
}

case ${1:-} in
    load)
        case ${2:-} in kind | k3d | minikube) ;; *) echo "LOAD is kind, k3d or minikube, not '${2:-}'" >&2 && exit 64 ;; esac
        command -v "$2" >/dev/null || { echo "$2 is missing: install it first" >&2; exit 1; }
        engine
        redis_image
        load "$2"
        values "  redis: $REDIS"
        ;;
    push)
        engine
        redis_image
        push "${2:?push needs the address of a registry}"
        values "  redis: $REDIS" "  registry: $2"
        ;;
    archived) values "  redis: $REDIS" ;;
    "") values ;;
    *)
        echo "usage: deliver.sh | archived | load kind|k3d|minikube | push REGISTRY" >&2
        exit 64
        ;;
esac
