#!/usr/bin/env python3
"""Writes an archive of `docker save` again, so that its bytes follow from the layers and settings of the image alone.

Docker writes the time of each build step into the settings, and older versions name the files by it. Times after
SOURCE_DATE_EPOCH become that time, as those of files do in the layers.

Usage: image_archive.py FILE
"""

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path

CHUNK = 1 << 20
SECONDS = len("2026-01-31T00:00:00")


def digest(file: io.BufferedIOBase) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    total = hashlib.sha256()
    while chunk := file.read(CHUNK):
        total.update(chunk)
    return total.hexdigest()


def clamp(step: dict, latest: str) -> None:
    """Sets the time of a build step back to `latest`. Docker writes times in UTC."""
    if step.get("created", "")[:SECONDS] >= latest[:SECONDS]:
        step["created"] = latest


def rewrite(file: Path, epoch: int) -> None:
    """Writes the archive again, with no time after `epoch`."""
    latest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    fresh = file.with_suffix(".new")
    with tarfile.open(file) as old, tarfile.open(fresh, "w", format=tarfile.GNU_FORMAT) as new:

        def add(name: str, size: int, content: io.BufferedIOBase) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = size, epoch
            new.addfile(member, content)

        def add_bytes(name: str, content: bytes) -> None:
            add(name, len(content), io.BytesIO(content))

        [image] = json.load(old.extractfile("manifest.json"))
        settings = json.load(old.extractfile(image["Config"]))
        for step in [settings, *settings.get("history", [])]:
            clamp(step, latest)
        # These describe the container of a build step.
        for name in ("container", "container_config", "docker_version"):
            settings.pop(name, None)
        packed = json.dumps(settings, separators=(",", ":"), sort_keys=True).encode()
        config = f"{hashlib.sha256(packed).hexdigest()}.json"
        layers = []
        for name in image["Layers"]:
            layer = f"{digest(old.extractfile(name))}/layer.tar"
            if layer not in layers:
                add(layer, old.getmember(name).size, old.extractfile(name))
            layers.append(layer)
        add_bytes(config, packed)
        manifest = [{"Config": config, "RepoTags": image["RepoTags"], "Layers": layers}]
        add_bytes("manifest.json", json.dumps(manifest).encode())
    fresh.replace(file)


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]), int(os.environ["SOURCE_DATE_EPOCH"]))
