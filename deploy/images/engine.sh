# shellcheck shell=bash
# Finds or starts Docker; for sourcing. Names the images, sets `docker` (a command and its first arguments) and provides
# the base image.
#
# A running Docker is used unchanged. Otherwise a daemon is started for the duration of the script,
# with its state in .cache/docker. Where no registry can be reached, debootstrap makes the base image.

# shellcheck disable=SC2034  # used by the scripts that source this file
IMAGES=(gateway controller worker ${CUDA:+worker-cuda} ${CUDA12:+worker-cuda12} ${TENSORRT_SHA256:+worker-tensorrt})
TAG=${TAG:-dev}
BASE=debian:bookworm-slim
# The image of the bundled Redis.
REDIS=batchfleet/redis:$TAG
STATE=.cache/docker

# Prints the path of a docker client with BuildKit, which is a plugin of Docker's own client.
client() {
    local candidate
    while read -r candidate; do
        if DOCKER_BUILDKIT=1 "$candidate" build --help >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done < <(type -ap docker)
    return 1
}

engine() {
    local program
    if ! program=$(client); then
        scripts/prerequisites.sh docker.io
        program=/usr/bin/docker
    fi
    docker=("$program")
    "${docker[@]}" info >/dev/null 2>&1 || daemon
    export DOCKER_BUILDKIT=1
    "${docker[@]}" image inspect "$BASE" >/dev/null 2>&1 && return
    "${docker[@]}" pull --quiet "$BASE" 2>/dev/null || debootstrapped
}

# Starts a daemon that changes no firewall rule, so containers reach only each other.
daemon() {
    command -v dockerd >/dev/null || scripts/prerequisites.sh docker.io
    mkdir -p "$STATE"
    local state left=300
    state=$(cd "$STATE" && pwd -P)
    docker+=(--host "unix://$state/socket")
    # A daemon of another run may be up already.
    "${docker[@]}" info >/dev/null 2>&1 && return
    echo "no Docker found: starting a daemon in $STATE"
    setsid dockerd --host "unix://$state/socket" --data-root "$state/data" \
        --exec-root "$state/exec" --pidfile "$state/pid" --iptables=false --ip6tables=false \
        >"$state/log" 2>&1 </dev/null &
    DAEMON=$!
    trap 'end_daemon' EXIT
    until "${docker[@]}" info >/dev/null 2>&1; do
        if ! kill -0 "$DAEMON" 2>/dev/null || [ $((left -= 1)) = 0 ]; then
            tail -n 5 "$state/log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

end_daemon() {
    kill "$DAEMON" && wait "$DAEMON"
} 2>/dev/null

debootstrapped() {
    local root=$STATE/base
    echo "no registry reachable: making $BASE with debootstrap"
    scripts/prerequisites.sh debootstrap
    rm -rf "$root"
    debootstrap --variant=minbase bookworm "$root" >"$STATE/debootstrap.log"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar --create --directory "$root" --numeric-owner . |
        "${docker[@]}" import --change 'CMD ["bash"]' - "$BASE" >/dev/null
    rm -rf "$root"
}

# Prints the time of the commit, in seconds since 1970.
epoch() {
    echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
}

# Makes the image of the bundled Redis.
#
# It comes from the official image, which is an index of several platforms. A Docker with containerd's store holds only
# one of them, and nodes refuse to import such an index; a build from it is of one platform. Where no registry can be
# reached, it is made from Debian's redis-server and redis-cli, which the runbooks use.
redis_image() {
    local official=docker.io/library/redis:7.2 folder=target/images-redis
    rm -rf "$folder"
    mkdir -p "$folder/lib"
    if "${docker[@]}" image inspect "$official" >/dev/null 2>&1 ||
        "${docker[@]}" pull --quiet "$official" >/dev/null 2>&1; then
        echo "FROM $official" >"$folder/Dockerfile"
    else
        scripts/prerequisites.sh redis-server redis-cli >&2
        cp --dereference "$(command -v redis-server)" "$(command -v redis-cli)" "$folder/"
        # Their shared libraries, except those of the base image.
        ldd "$folder"/redis-* | awk '/=> \// && !/lib(c|m)\.so/ { print $3 }' | sort --unique |
            xargs cp --dereference --target-directory "$folder/lib"
        cat >"$folder/Dockerfile" <<END
FROM $BASE AS files
ARG SOURCE_DATE_EPOCH
ENV LD_LIBRARY_PATH=/files/usr/local/lib
COPY lib /files/usr/local/lib/
COPY redis-* /files/usr/local/bin/
RUN /files/usr/local/bin/redis-server --version && /files/usr/local/bin/redis-cli --version \\
    && find /files -exec touch --no-dereference --date "@\$SOURCE_DATE_EPOCH" {} +

FROM $BASE
COPY --from=files /files /
ENV LD_LIBRARY_PATH=/usr/local/lib
USER 65532:65532
CMD ["redis-server"]
END
    fi
    "${docker[@]}" build --quiet --network none --build-arg "SOURCE_DATE_EPOCH=$(epoch)" --tag "$REDIS" "$folder" >/dev/null
    rm -r "$folder"
}
