#!/usr/bin/env bash
# Installs missing commands and packages on Debian and its derivatives. On other systems, prints what to
# install and fails. Silent when nothing is missing.
#
# Usage: prerequisites.sh NAME...     for example: prerequisites.sh cc python3-venv redis-server
set -euo pipefail

# Whether a command or package is installed.
present() {
    case $1 in
        python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# Prints the Debian packages of a name.
package() {
    case $1 in
        cc) echo gcc libc6-dev ;;
        node) echo nodejs ;;
        redis-cli) echo redis-tools ;;
        llvm-cov-*) echo "llvm-${1#llvm-cov-}" ;;
        *) echo "$1" ;;
    esac
}

packages=()
for name in "$@"; do
    if present "$name"; then
        continue
    elif [ "$name" = cargo ]; then
        echo "Rust is missing: install it from https://rustup.rs and try again" >&2
        exit 1
    fi
    read -ra more <<<"$(package "$name")"
    packages+=("${more[@]}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "apt-get is missing: please install ${packages[*]} (names of Debian packages)" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
echo "installing ${packages[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${packages[@]}"
