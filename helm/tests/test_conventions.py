"""Conventional values reach the objects: for all components, and for one of them."""

import pytest

import chart

VALUES = chart.ROOT / "helm/tests/values/conventional.yaml"
COMPONENTS = [("Deployment", "-gateway"), ("Deployment", "-controller"), ("StatefulSet", "-redis")]

every_component = pytest.mark.parametrize(("kind", "name"), COMPONENTS)


def component(kind: str, name: str) -> dict:
    return chart.the(kind, name, values=VALUES)


def pod(kind: str, name: str) -> dict:
    return chart.pod_of(component(kind, name))


def test_names_and_the_namespace_may_be_replaced():
    gateway = component("Deployment", "-gateway")
    assert (gateway["metadata"]["name"], gateway["metadata"]["namespace"]) == ("serving-gateway", "elsewhere")
    assert gateway["metadata"]["labels"]["app.kubernetes.io/name"] == "inference"
    binding = chart.the("RoleBinding", "-controller", values=VALUES)
    assert binding["subjects"][0]["namespace"] == "elsewhere"


def test_every_object_has_the_common_labels_and_annotations():
    for document in chart.objects(VALUES):
        metadata = document["metadata"]
        if not metadata["name"].endswith(("-extra", "-text")):
            assert metadata["labels"]["team"] == "ml", metadata["name"]
            assert metadata["annotations"]["owner"] == "ml@example.com", metadata["name"]


def test_no_label_of_the_values_breaks_a_selector():
    for document in chart.objects(None, "commonLabels.app\\.kubernetes\\.io/component=other"):
        spec = document.get("spec", {})
        if document["kind"] in ("Deployment", "StatefulSet"):
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"].items() <= labels.items()


def test_every_image_comes_from_one_registry_and_digests_replace_tags():
    images = {container["image"] for document in chart.objects(VALUES) if (found := chart.pod_of(document))
              for container in found.get("initContainers", []) + found["containers"]} - {"busybox"}
    assert images == {
        f"mirror.example.com/batchfleet/gateway@sha256:{1:064}",
        "mirror.example.com/batchfleet/controller:0.2.0",
        f"mirror.example.com/library/redis@sha256:{2:064}",
    }


def test_an_image_of_another_registry_stays_there():
    registry = ("images.registry=r.example.com", "images.redis=quay.io/org/redis:7.4")
    redis = chart.pod_of(chart.the("StatefulSet", "-redis", *registry))["containers"][0]
    assert redis["image"] == "quay.io/org/redis:7.4"


@every_component
def test_all_pods_pull_with_all_secrets(kind, name):
    assert pod(kind, name)["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]


@every_component
def test_settings_of_pods_reach_every_component(kind, name):
    spec = pod(kind, name)
    expected = {"runtimeClassName": "gvisor", "schedulerName": "volcano", "dnsPolicy": "ClusterFirst"}
    assert expected.items() <= spec.items()
    assert spec["dnsConfig"]["options"] == [{"name": "ndots", "value": "2"}]
    assert spec["hostAliases"][0]["ip"] == "192.0.2.1"
    assert spec["affinity"]["nodeAffinity"]
    assert [each["topologyKey"] for each in spec["topologySpreadConstraints"]] == ["zone"]
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert component(kind, name)["spec"]["revisionHistoryLimit"] == 5
    container = spec["containers"][0]
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["livenessProbe"]["failureThreshold"] == 9
    assert container["envFrom"] == [{"configMapRef": {"name": "settings", "optional": True}}]
    assert {"name": "extra", "mountPath": "/extra"} in container["volumeMounts"]
    assert {"name": "extra", "emptyDir": {}} in spec["volumes"]
    assert [each["name"] for each in spec["containers"][1:]] == ["beside"]
    assert spec["initContainers"][-1]["name"] == "first"


def test_a_component_adds_to_maps_and_replaces_other_values():
    gateway, controller = pod(*COMPONENTS[0]), pod(*COMPONENTS[1])
    template = component(*COMPONENTS[0])["spec"]["template"]["metadata"]
    assert template["annotations"]["a/b"] == template["labels"]["zone"] == "gateway"
    assert gateway["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "gateways"}
    assert "tolerations" not in gateway and controller["tolerations"][0]["key"] == "all"
    assert (gateway["priorityClassName"], controller["priorityClassName"]) == ("higher", "high")
    assert "env" not in gateway["containers"][0] and controller["containers"][0]["env"]
    probe = gateway["containers"][0]["readinessProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"], probe["httpGet"]["port"]) == (7, 8, "http")
    assert component(*COMPONENTS[0])["spec"]["strategy"] == {"type": "Recreate"}


def test_a_probe_with_an_action_replaces_the_whole_probe():
    gateway = chart.the("Deployment", "-gateway", "gateway.livenessProbe.tcpSocket.port=http")
    assert chart.pod_of(gateway)["containers"][0]["livenessProbe"] == {"tcpSocket": {"port": "http"}}


def test_service_accounts_may_exist_or_carry_annotations():
    names = [each["metadata"]["name"] for each in chart.objects(VALUES) if each["kind"] == "ServiceAccount"]
    assert pod(*COMPONENTS[0])["serviceAccountName"] == "gateways" and "gateways" not in names
    controller = chart.the("ServiceAccount", "-controller", values=VALUES)
    assert controller["metadata"]["annotations"]["cloud/role"] == "all"
    one = [each["metadata"]["name"] for each in chart.objects(None, "serviceAccount.name=shared")
           if each["kind"] == "ServiceAccount"]
    assert one == ["shared", "rel-batchfleet-redis-secrets"] or sorted(one) == ["rel-batchfleet-redis-secrets", "shared"]


def test_a_load_balancer_may_be_restricted():
    spec = chart.the("Service", "serving", values=VALUES)["spec"]
    assert spec["loadBalancerSourceRanges"] == ["192.0.2.0/24"] and spec["loadBalancerClass"] == "cloud/nlb"
    assert spec["externalTrafficPolicy"] == "Local" and spec["ports"][0]["nodePort"] == 30080
    refused = chart.refusal("gateway.service.loadBalancerSourceRanges={10.0.0.0/8}")
    assert "has no effect unless gateway.service.type is LoadBalancer" in refused


def test_additional_objects_are_templates():
    names = {each["metadata"]["name"] for each in chart.objects(VALUES) if each["kind"] == "ConfigMap"}
    assert {"rel-extra", "serving-text"} <= names


def test_definitions_are_installed_unless_a_value_leaves_them_out():
    def definitions(*settings):
        rendered = chart.template("--include-crds", *[part for each in settings for part in ("--set", each)])
        assert rendered.returncode == 0, rendered.stderr
        return rendered.stdout.count("kind: CustomResourceDefinition\n")

    assert (definitions(), definitions("crds.enabled=false")) == (1, 0)


def test_openshift_assigns_the_users_of_all_pods():
    values = chart.CHART / "examples/openshift.yaml"
    for document in chart.objects(values):
        context = (chart.pod_of(document) or {}).get("securityContext", {})
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()
    arguments = chart.pod_of(chart.the("Deployment", "-controller", values=values))["containers"][0]["args"]
    assert "--worker-user=none" in arguments
    found = chart.template("--api-versions", "security.openshift.io/v1")
    assert "--worker-user=none" in found.stdout and "runAsUser" not in found.stdout
    assert "--worker-user" not in chart.template().stdout


def test_services_and_listeners_have_both_ip_families():
    values = chart.CHART / "examples/ipv6.yaml"
    services = [each["spec"] for each in chart.objects(values) if each["kind"] == "Service"]
    assert len(services) == 3
    assert all(each["ipFamilies"] == ["IPv6"] and each["ipFamilyPolicy"] == "SingleStack" for each in services)
    assert "0.0.0.0" not in chart.template("--set", "externalMetrics.enabled=true").stdout


def test_egress_goes_to_the_listed_peers_only():
    values = chart.CHART / "examples/network-policy.yaml"
    given = {"gateway": 4, "worker": 4, "controller": 3}
    for name, count in given.items():
        egress = chart.the("NetworkPolicy", f"-{name}", values=values)["spec"]["egress"]
        assert len(egress) == count and all(rule["to"] and rule["ports"] for rule in egress), name
    defaults = chart.the("NetworkPolicy", "-gateway")["spec"]["egress"]
    assert all(rule["to"] and rule["ports"] for rule in defaults)


def test_users_of_the_cluster_get_rights_on_fleets_by_aggregation():
    view, edit = (chart.the("ClusterRole", f"-{role}") for role in ("view", "edit"))
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    to = [{label.removeprefix(prefix) for label in each["metadata"]["labels"] if label.startswith(prefix)}
          for each in (view, edit)]
    assert to == [{"view", "edit", "admin"}, {"edit", "admin"}]
    assert set(view["rules"][0]["verbs"]) == {"get", "list", "watch"}
    assert "modelfleets/status" not in edit["rules"][0]["resources"]
    assert "ClusterRole" not in chart.kinds("rbac.createAggregateClusterRoles=false")


def test_the_controller_may_list_events_and_write_its_own():
    rules = [rule for rule in chart.the("Role", "-controller")["rules"] if "events" in rule["resources"]]
    assert [(rule["apiGroups"], rule["verbs"]) for rule in rules] == [
        ([""], ["list"]), (["events.k8s.io"], ["create", "patch"]),
    ]
