"""Renders the chart with the real helm."""

import functools
import os
import subprocess
from pathlib import Path

import yaml

HELM = os.environ.get("HELM", "helm")
ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/batchfleet"
PROGRAMS = Path(os.environ.get("BATCHFLEET_PROGRAMS", ROOT / "target/debug"))
KUBERNETES = "1.36"
# Examples that are no values of this chart: Kubernetes objects, or values of another chart.
BESIDE = ["keda.yaml", "model-volume.yaml", "prometheus-adapter.yaml"]
EXAMPLES = [p for p in sorted((CHART / "examples").glob("*.yaml")) if p.name not in BESIDE]
VALUES = [None, *EXAMPLES, *sorted((Path(__file__).parent / "values").glob("*.yaml"))]


def helm(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)


def template(*arguments: str) -> subprocess.CompletedProcess:
    """Renders for the Kubernetes version whose schemas the tests use."""
    versions = ["--kube-version", f"v{KUBERNETES}.0"]
    return helm("template", "rel", str(CHART), "--namespace", "ns", *versions, *arguments)


@functools.cache
def objects(values: Path | None = None, *settings: str) -> list[dict]:
    """The objects rendered from a values file and `KEY=VALUE` settings."""
    arguments = ["--values", str(values)] if values else []
    for setting in settings:
        arguments += ["--set", setting]
    rendered = template(*arguments)
    assert rendered.returncode == 0, rendered.stderr
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def the(kind: str, name: str, *settings: str, values: Path | None = None) -> dict:
    """The only object of a kind whose name ends with `name`."""
    found = [
        each
        for each in objects(values, *settings)
        if each["kind"] == kind and each["metadata"]["name"].endswith(name)
    ]
    assert len(found) == 1, f"{len(found)} objects {kind} …{name}"
    return found[0]


def kinds(*settings: str) -> list[str]:
    return [each["kind"] for each in objects(None, *settings)]


def refusal(*settings: str) -> str:
    """The error of helm, which must refuse these `KEY=VALUE` settings."""
    arguments = [part for setting in settings for part in ("--set", setting)]
    rendered = template(*arguments)
    assert rendered.returncode != 0, "helm accepted it"
    return rendered.stderr


def pod_of(document: dict) -> dict | None:
    """The pod spec of an object that is or creates pods; None for other objects."""
    if document["kind"] == "Pod":
        return document["spec"]
    return document.get("spec", {}).get("template", {}).get("spec") if isinstance(
        document.get("spec"), dict
    ) else None
