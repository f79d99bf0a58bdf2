"""What helm does about objects that exist in the cluster: it refuses an external metrics API of another provider and a
second release in the namespace, and keeps the autoscaler of the gateways."""

import chart
from cluster import cluster

API = "v1beta1.external.metrics.k8s.io"
API_PATH = f"/apis/apiregistration.k8s.io/v1/apiservices/{API}"


def owned(release: str) -> dict:
    """The labels and annotations that helm sets on the objects of a release."""
    annotations = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "ns"}
    return {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": annotations}


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


def test_an_api_that_another_service_provides_is_refused(tmp_path):
    for other in (None, "another-release"):
        refused = rendered(tmp_path, {API_PATH: api_service(other)}, "externalMetrics.enabled=true")
        assert refused.returncode != 0
        assert "is already served in this cluster by service monitoring/prometheus-adapter" in refused.stderr


def test_an_api_that_this_release_already_provides_is_kept(tmp_path):
    rendering = rendered(tmp_path, {API_PATH: api_service("rel")}, "externalMetrics.enabled=true")
    assert rendering.returncode == 0, rendering.stderr


def test_an_api_of_another_service_does_not_matter_when_ours_is_off(tmp_path):
    rendering = rendered(tmp_path, {API_PATH: api_service(None)})
    assert rendering.returncode == 0, rendering.stderr


DEPLOYMENTS = "/apis/apps/v1/namespaces/ns/deployments"


def controllers_of(release: str) -> dict:
    labels = {
        "app.kubernetes.io/part-of": "batchfleet", "app.kubernetes.io/component": "controller",
        "app.kubernetes.io/instance": release,
    }
    metadata = {"name": f"{release}-controller", "namespace": "ns", "labels": labels}
    item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    return {"kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": [item]}


def test_a_second_release_in_the_namespace_is_refused_and_names_the_first(tmp_path):
    refused = rendered(tmp_path, {DEPLOYMENTS: controllers_of("first")})
    assert refused.returncode != 0
    assert "namespace ns already has the release first of this chart" in refused.stderr
    upgrade = rendered(tmp_path, {DEPLOYMENTS: controllers_of("rel")})
    assert upgrade.returncode == 0, upgrade.stderr


AUTOSCALER = "/apis/autoscaling/v2/namespaces/ns/horizontalpodautoscalers/rel-batchfleet-gateway"


def test_an_existing_autoscaler_of_gateways_stays_while_the_api_of_metrics_is_away(tmp_path):
    assert "kind: HorizontalPodAutoscaler" not in rendered(tmp_path, {}).stdout
    metadata = {"name": "rel-batchfleet-gateway", "namespace": "ns"} | owned("rel")
    existing = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata}
    assert "kind: HorizontalPodAutoscaler" in rendered(tmp_path, {AUTOSCALER: existing}).stdout
