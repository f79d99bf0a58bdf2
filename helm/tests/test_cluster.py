"""Upgrades: objects that already exist in the cluster are kept, or make helm refuse."""

import base64

import yaml

import chart
from cluster import cluster

API = "v1beta1.external.metrics.k8s.io"
API_PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{API}"
SECRETS = "/api/v1/namespaces/ns/secrets/rel-batchfleet"


def owned(release: str) -> dict:
    """The labels and annotations that helm sets on the objects of a release."""
    annotations = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "ns"}
    return {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": annotations}


def secret(**data: str) -> dict:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"kind": "Secret", "metadata": {"name": "any"} | owned("rel"), "data": encoded}


def api_service(release: str | None) -> dict:
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API} | (owned(release) if release else {}),
        "spec": {"service": {"namespace": "monitoring", "name": "prometheus-adapter"}},
    }


def rendered(folder, existing: dict, *settings: str):
    arguments = [part for setting in settings for part in ("--set", setting)]
    with cluster(folder, existing) as access:
        return chart.template(*arguments, *access)


def found(rendering, name: str) -> dict:
    assert rendering.returncode == 0, rendering.stderr
    documents = [each for each in yaml.safe_load_all(rendering.stdout) if each]
    (document,) = [
        each for each in documents if each["kind"] == "Secret" and each["metadata"]["name"] == name
    ]
    return document


def test_a_password_is_kept_over_an_upgrade(tmp_path):
    rendering = rendered(tmp_path, {f"{SECRETS}-redis-worker": secret(password="as-before")})
    kept = found(rendering, "rel-batchfleet-redis-worker")["stringData"]
    assert kept["url"] == "redis://worker:as-before@rel-batchfleet-redis:6379/0"
    made = found(rendering, "rel-batchfleet-redis-gateway")["stringData"]
    assert len(made["password"]) == 32


def test_a_certificate_is_kept_over_an_upgrade(tmp_path):
    pems = {"ca.crt": "ca", "tls.crt": "certificate", "tls.key": "key"}
    existing = {f"{SECRETS}-metrics-api": secret(**pems)}
    rendering = rendered(tmp_path, existing, "externalMetrics.enabled=true")
    kept = found(rendering, "rel-batchfleet-metrics-api")["data"]
    assert {key: base64.b64decode(value).decode() for key, value in kept.items()} == pems


def test_an_api_that_another_service_provides_is_refused(tmp_path):
    for other in (None, "another-release"):
        refused = rendered(tmp_path, {API_PATH: api_service(other)}, "externalMetrics.enabled=true")
        assert refused.returncode != 0
        assert "is already served in this cluster by service monitoring/prometheus-adapter" in refused.stderr


def test_an_api_that_this_release_already_provides_is_kept(tmp_path):
    rendering = rendered(tmp_path, {API_PATH: api_service("rel")}, "externalMetrics.enabled=true")
    assert found(rendering, "rel-batchfleet-metrics-api")


def test_an_api_of_another_service_does_not_matter_when_ours_is_off(tmp_path):
    assert found(rendered(tmp_path, {API_PATH: api_service(None)}), "rel-batchfleet-redis-worker")
