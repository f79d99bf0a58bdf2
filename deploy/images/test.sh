#!/usr/bin/env bash
# Runs a fleet from the images with Kubernetes' restrictions: not root, writable only in /tmp, no
# capabilities, limited memory. Every answer is checked, also while a worker is killed.
#
# Usage: test.sh      (after images.sh build)
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/images/engine.sh

MODELS=$(cd .cache/models && pwd -P)
DIGITS=$(cd .cache && pwd -P)/digits_test.csv
TAG=${TAG:-dev}
# Container names of this run, so that concurrent runs do not collide.
RUN=batchfleet-test-$$
passed=0
failed=0

# check SENTENCE COMMAND...: one test.
check() {
    if "${@:2}" >"$output" 2>&1; then
        echo "ok       $1"
        passed=$((passed + 1))
    else
        echo "FAILED   $1"
        tail -n 5 "$output"
        "${docker[@]}" ps --all --quiet --filter "name=$RUN-" | xargs -r -n 1 "${docker[@]}" logs --tail 3
        failed=$((failed + 1))
    fi
}

# start NAME MEMORY IMAGE ARGUMENT...
start() {
    "${docker[@]}" run --detach --name "$RUN-$1" --network "$RUN" --network-alias "$1" \
        "${restricted[@]}" --memory "$2" "${@:3}" >/dev/null
}
restricted=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges
    --user 65532:65532 --cpus 1)

worker() {
    start "$1" 512m --volume "$MODELS:/models:ro" "batchfleet/worker:$TAG" \
        --redis-url redis://redis:6379 --model-repository /models --model digits_wide
}

# load [ARGUMENT]...: runs load in a container; fails if an answer is wrong or missing.
load() {
    "${docker[@]}" run --rm --network "$RUN" "${restricted[@]}" --memory 256m \
        --volume "$DIGITS:/digits.csv:ro" --entrypoint /usr/local/bin/batchfleet \
        "batchfleet/gateway:$TAG" load --url http://gateway:8080 --model digits_wide \
        --digits /digits.csv --users 20 "$@"
}

# Repeats a command until it succeeds, for 30 s.
eventually() {
    local left=60
    until "$@"; do
        [ $((left -= 1)) -gt 0 ] || return 1
        sleep 0.5
    done
}

# Whether the image's user is the expected number: for a name Kubernetes cannot verify `runAsNonRoot`.
not_root() {
    [ "$("${docker[@]}" image inspect --format '{{.Config.User}}' "$1")" = 65532:65532 ]
}

# Whether every library that the image's ONNX Runtime may load is there.
has_its_libraries() {
    "${docker[@]}" run --rm --network none "${restricted[@]}" --entrypoint /bin/sh \
        --volume "$PWD/deploy/images/libraries.sh:/libraries.sh:ro" "$1" /libraries.sh
}

layers() {
    "${docker[@]}" image inspect --format '{{.RootFS.Layers}}' "batchfleet/$1"
}

# Whether a second build without cache gives the same layers.
is_repeatable() {
    local image
    TAG=$RUN deploy/images/images.sh build --no-cache || return 1
    for image in gateway controller worker; do
        echo "$image: $(layers "$image:$TAG"), then $(layers "$image:$RUN")"
        [ "$(layers "$image:$TAG")" = "$(layers "$image:$RUN")" ] || return 1
    done
}

# A worker without certificate authorities fails before its first request. The address has no server,
# so the log must show the failed request.
asks_an_object_store() {
    "${docker[@]}" run --rm --network none "${restricted[@]}" "batchfleet/worker:$TAG" \
        --redis-url redis://127.0.0.1:1 --model-repository https://127.0.0.1:1/models \
        --model-cache /tmp/models >"$output.load" 2>&1
    grep -F "PROPFIND https://127.0.0.1:1/models" "$output.load"
}

is_read_only() {
    ! "${docker[@]}" exec "$RUN-gateway" touch /usr/local/written
}

# Kills one of two workers under load: every request must get a right answer.
load_while_a_worker_is_killed() {
    local loading
    load --duration 6s >"$output.load" 2>&1 &
    loading=$!
    sleep 2
    "${docker[@]}" kill "$RUN-worker1" || return 1
    wait "$loading" || { cat "$output.load"; return 1; }
}

# Whether the program exits with 0 after SIGTERM.
ends_well() {
    "${docker[@]}" stop --time 60 "$RUN-$1" &&
        [ "$("${docker[@]}" inspect --format '{{.State.ExitCode}}' "$RUN-$1")" = 0 ]
}

clean_up() {
    local containers
    mapfile -t containers < <("${docker[@]}" ps --all --quiet --filter "name=$RUN-")
    [ ${#containers[@]} = 0 ] || "${docker[@]}" rm --force --volumes "${containers[@]}"
    "${docker[@]}" network rm "$RUN"
    "${docker[@]}" image rm "batchfleet/"{gateway,controller,worker}":$RUN"
    rm -f "$output" "$output.load"
    [ -z "${DAEMON:-}" ] || end_daemon
} >/dev/null 2>&1

output=$(mktemp)
engine
trap clean_up EXIT
redis_image
"${docker[@]}" network create "$RUN" >/dev/null

for image in gateway controller worker; do
    check "the image of the $image does not run as root" not_root "batchfleet/$image:$TAG"
done
for image in worker worker-cuda worker-cuda12 worker-tensorrt; do
    if "${docker[@]}" image inspect "batchfleet/$image:$TAG" >/dev/null 2>&1; then
        check "the image of the $image has the libraries of its providers" has_its_libraries "batchfleet/$image:$TAG"
    fi
done
check "equal programs give equal images" is_repeatable
check "a worker sends requests to an object store" asks_an_object_store
start redis 256m "$REDIS" redis-server --save "" --protected-mode no \
    --maxmemory 128mb --maxmemory-policy noeviction
start gateway 256m "batchfleet/gateway:$TAG" --redis-url redis://redis:6379 --lame-duck 1s
worker worker0
worker worker1
check "a fleet of containers gives right answers" eventually load --duration 1s --warm-up 0s
check "nothing can be written outside /tmp" is_read_only
check "every request is answered while a worker is killed" load_while_a_worker_is_killed
check "the other worker keeps serving" load --duration 1s
check "a gateway exits with 0 after SIGTERM" ends_well gateway
check "a worker exits with 0 after SIGTERM" ends_well worker0

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
