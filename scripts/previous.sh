#!/usr/bin/env bash
# Builds the gateway and the worker of an older commit and prints their folder.
#
# Usage: previous.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(git rev-parse --verify --quiet "$1^{commit}") || {
    echo "commit $1 not found: fetch the history, or choose a commit with PREVIOUS=COMMIT" >&2
    exit 1
}
folder=$PWD/.cache/previous/$commit
if [ ! -x "$folder/batchfleet-gateway" ] || [ ! -x "$folder/batchfleet-worker" ]; then
    source=$(mktemp -d)
    trap 'rm -rf "$source"' EXIT
    git archive "$commit" | tar -x -C "$source"
    cargo build --locked --release --manifest-path "$source/Cargo.toml" --target-dir target/previous \
        -p batchfleet-gateway -p batchfleet-worker >&2
    mkdir -p "$folder"
    cp target/previous/release/batchfleet-{gateway,worker} "$folder"
fi
echo "$folder"
