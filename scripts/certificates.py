#!/usr/bin/env python3
"""Extracts Mozilla's certificate authorities, for the images, from certifi's wheel on PyPI.

Usage: certificates.py [FILE]      (default .cache/certificates/ca-certificates.crt)
"""

import sys
from pathlib import Path

from wheel import Wheel

CERTIFI = Wheel("certifi==2026.10.18", "any",
                "73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62")


def main() -> None:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/certificates/ca-certificates.crt")
    CERTIFI.take({"certifi/cacert.pem": file})


if __name__ == "__main__":
    main()
