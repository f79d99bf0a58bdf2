#!/usr/bin/env python3
"""Writes the software bill of materials of the programs, in the form SPDX 2.3.

Usage: sbom.py FILE      the same sources and SOURCE_DATE_EPOCH give the same bytes
"""

import json
import os
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import dependencies
import onnxruntime
import version


def checksums() -> dict[tuple[str, str], str]:
    """Returns the SHA-256 of each crate's package, from Cargo.lock."""
    locked = tomllib.loads((dependencies.ROOT / "Cargo.lock").read_text())["package"]
    return {(each["name"], each["version"]): each["checksum"] for each in locked if "checksum" in each}


def identifier(name: str, number: str) -> str:
    """Returns the name of a package within the document."""
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{name}-{number}")


def package(crate: dependencies.Crate, sums: dict[tuple[str, str], str]) -> dict:
    """Returns one crate as a package of SPDX."""
    described = {
        "SPDXID": identifier(crate.name, crate.version),
        "name": crate.name,
        "versionInfo": crate.version,
        "downloadLocation": f"https://crates.io/crates/{crate.name}/{crate.version}" if crate.external else "NOASSERTION",
        "filesAnalyzed": False,
        "licenseDeclared": crate.license or "NOASSERTION",
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }
    if crate.external:
        url = f"pkg:cargo/{crate.name}@{crate.version}"
        described["externalRefs"] = [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}]
    if checksum := sums.get((crate.name, crate.version)):
        described["checksums"] = [{"algorithm": "SHA256", "checksumValue": checksum}]
    return described


def runtime() -> dict:
    """Returns ONNX Runtime, which workers load, as a package of SPDX."""
    url = f"pkg:pypi/onnxruntime@{onnxruntime.VERSION}"
    return {
        "SPDXID": identifier("onnxruntime", onnxruntime.VERSION), "name": "onnxruntime", "versionInfo": onnxruntime.VERSION,
        "downloadLocation": f"https://pypi.org/project/onnxruntime/{onnxruntime.VERSION}/", "filesAnalyzed": False,
        "licenseDeclared": "MIT", "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}],
    }


def document() -> dict:
    """Returns the bill of materials of all programs of a release."""
    crates, sums = dependencies.crates(dependencies.metadata(None)), checksums()
    packages = [package(crate, sums) for crate in crates] + [runtime()]
    programs = [identifier(crate.name, crate.version) for crate in crates if crate.name in dependencies.PROGRAMS]
    parts = [each["SPDXID"] for each in packages if each["SPDXID"] not in programs]
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    name = f"batchfleet-{version.version()}-{dependencies.target()}"
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://github.com/batchfleet/batchfleet/spdx/{name}-{created:%Y%m%d%H%M%S}",
        "creationInfo": {"created": f"{created:%Y-%m-%dT%H:%M:%SZ}", "creators": ["Tool: batchfleet-scripts-sbom"]},
        "packages": packages,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": program}
            for program in programs
        ] + [
            {"spdxElementId": program, "relationshipType": "CONTAINS", "relatedSpdxElement": part}
            for program in programs for part in parts
        ],
    }


def main() -> None:
    file = Path(sys.argv[1])
    bill = document()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bill, indent=1) + "\n")
    print(f"{file}: {len(bill['packages'])} packages")


if __name__ == "__main__":
    main()
