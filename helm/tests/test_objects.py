"""Kubernetes accepts the rendered objects, for every values file."""

import json
import subprocess
import warnings

import jsonschema
import kubernetes_validate
import pytest
import yaml

import chart
from restricted import violations

# Their schemas are in no package.
OTHERS = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "GRPCRoute", "HTTPRoute", "Certificate"}

every_values = pytest.mark.parametrize(
    "values", chart.VALUES, ids=lambda values: values.stem if values else "defaults"
)


@every_values
def test_every_object_is_valid_and_has_no_unknown_field(values):
    for document in chart.objects(values):
        if document["kind"] in OTHERS:
            continue
        if document["kind"] == "ModelFleet":
            jsonschema.validate(document["spec"], fleet_schema())
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kubernetes_validate.validate(document, chart.KUBERNETES, strict=True)


@every_values
def test_every_pod_passes_the_restricted_standard(values):
    pods = [pod for document in chart.objects(values) if (pod := chart.pod_of(document))]
    assert len(pods) >= 2
    assert [found for pod in pods for found in violations(pod)] == []


@every_values
def test_every_container_is_read_only_and_bounded(values):
    for document in chart.objects(values):
        pod = chart.pod_of(document) or {}
        for container in pod.get("containers", []) + pod.get("initContainers", []):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]


@every_values
def test_no_container_has_environment_variables_but_those_of_the_values(values):
    given = yaml.safe_load(values.read_text()) if values else {}
    for document in chart.objects(values):
        for container in (chart.pod_of(document) or {}).get("containers", []):
            assert container.get("env", []) in ([], given.get("extraEnv"))
            assert container.get("envFrom", []) in ([], given.get("extraEnvFrom"))


@every_values
def test_every_object_names_its_namespace(values):
    cluster = {"ClusterRole", "ClusterRoleBinding", "APIService", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    for document in chart.objects(values):
        metadata = document["metadata"]
        if metadata["name"].endswith(("-extra", "-text")):
            continue
        assert ("namespace" in metadata) == (document["kind"] not in cluster), metadata["name"]


@every_values
def test_object_names_are_unique(values):
    names = [(each["kind"], each["metadata"]["name"]) for each in chart.objects(values)]
    assert len(names) == len(set(names))


@every_values
def test_lint_finds_nothing(values):
    arguments = ["--values", str(values)] if values else []
    linted = chart.helm("lint", "--strict", str(chart.CHART), *arguments)
    assert linted.returncode == 0, linted.stdout


@every_values
def test_programs_accept_their_flags(values):
    containers = [
        container
        for document in chart.objects(values)
        for container in (chart.pod_of(document) or {}).get("containers", [])
        if (chart.PROGRAMS / f"batchfleet-{container['name']}").exists()
    ]
    assert {each["name"] for each in containers} == {"gateway", "controller"}
    for container in containers:
        # `--help` comes last: clap still reports a wrong flag or value before it.
        program = [chart.PROGRAMS / f"batchfleet-{container['name']}", *container["args"], "--help"]
        taken = subprocess.run(program, capture_output=True, text=True)
        assert taken.returncode == 0, taken.stderr


def test_the_chart_never_sets_the_number_of_workers():
    for values in chart.VALUES:
        fleets = [each for each in chart.objects(values) if each["kind"] == "ModelFleet"]
        assert all("replicas" not in fleet["spec"] for fleet in fleets)


def test_the_volume_for_models_is_valid_and_filled_by_a_restricted_pod():
    text = (chart.CHART / "examples/model-volume.yaml").read_text()
    claim, pod = yaml.safe_load_all(text)
    for document in (claim, pod):
        kubernetes_validate.validate(document, chart.KUBERNETES, strict=True)
    assert violations(pod["spec"]) == []


def test_the_restricted_standard_is_checked():
    safe = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for change, what in [
        ({"runAsNonRoot": False}, "root"),
        ({"allowPrivilegeEscalation": True}, "escalate"),
        ({"capabilities": {}}, "capabilities"),
        ({"seccompProfile": {}}, "seccomp"),
    ]:
        pod = {"containers": [{"name": "c", "securityContext": safe | change}]}
        (found,) = violations(pod)
        assert what in found
    assert violations({"containers": [], "hostNetwork": True, "volumes": [{"hostPath": {}}]}) == [
        "hostNetwork is set",
        "volume of type hostPath",
    ]


def fleet_schema() -> dict:
    schema = json.loads((chart.CHART / "values.schema.json").read_text())
    return schema["properties"]["models"]["additionalProperties"]
