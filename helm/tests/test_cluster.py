"""What an upgrade keeps, and what it refuses: decided by what stands in the cluster."""

import base64

import yaml

import chart
from cluster import cluster

API = "v1beta1.external.metrics.k8s.io"
API_PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{API}"
SECRETS = "/api/v1/namespaces/ns/secrets/rel-batchfleet"


def owned(release: str) -> dict:
    """What helm writes on what a release made."""
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


def rendered(folder, standing: dict, *settings: str):
    arguments = [part for setting in settings for part in ("--set", setting)]
    with cluster(folder, standing) as access:
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
    standing = {f"{SECRETS}-metrics-api": secret(**pems)}
    rendering = rendered(tmp_path, standing, "externalMetrics.enabled=true")
    kept = found(rendering, "rel-batchfleet-metrics-api")["data"]
    assert {key: base64.b64decode(value).decode() for key, value in kept.items()} == pems


def test_an_api_that_somebody_else_serves_is_left_alone(tmp_path):
    for other in (None, "another-release"):
        refused = rendered(tmp_path, {API_PATH: api_service(other)}, "externalMetrics.enabled=true")
        assert refused.returncode != 0
        assert "served in this cluster by somebody else already" in refused.stderr
        assert "monitoring/prometheus-adapter" in refused.stderr


def test_the_api_that_this_release_serves_is_no_obstacle(tmp_path):
    rendering = rendered(tmp_path, {API_PATH: api_service("rel")}, "externalMetrics.enabled=true")
    assert found(rendering, "rel-batchfleet-metrics-api")


def test_somebody_elses_api_does_not_matter_where_ours_is_off(tmp_path):
    assert found(rendered(tmp_path, {API_PATH: api_service(None)}), "rel-batchfleet-redis-worker")
