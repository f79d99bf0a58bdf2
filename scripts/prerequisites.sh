#!/usr/bin/env bash
# Installs what is missing of the commands and packages named, on Debian and its like; elsewhere
# says what to install. Silent when nothing is missing.
#
# Usage: prerequisites.sh NAME...     such as: prerequisites.sh cc python3-venv redis-server
set -euo pipefail

# Whether what a name stands for is there.
present() {
    case $1 in
        python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# The Debian package of a name.
package() {
    case $1 in
        cc) echo gcc libc6-dev ;;
        node) echo nodejs ;;
        *) echo "$1" ;;
    esac
}

packages=()
for name in "$@"; do
    if present "$name"; then
        continue
    elif [ "$name" = cargo ]; then
        echo "Rust is missing: install it from https://rustup.rs, then try again" >&2
        exit 1
    fi
    read -ra more <<<"$(package "$name")"
    packages+=("${more[@]}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "please install what Debian calls: ${packages[*]}" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
echo "installing ${packages[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${packages[@]}"
