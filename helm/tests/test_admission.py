"""The admission policy: which images, secrets and service accounts a ModelFleet may name."""

import cel
import pytest

import chart

SPEC = {"model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}}}


def refusals(spec: dict, *settings: str) -> list[str]:
    """The messages of the policy for a fleet with this spec."""
    policy = chart.the("ValidatingAdmissionPolicy", "-fleets", *settings)["spec"]
    context = {"object": {"spec": SPEC | spec}}
    variables = {each["name"]: cel.evaluate(each["expression"], context) for each in policy["variables"]}
    context["variables"] = variables
    return [each["message"] for each in policy["validations"] if not cel.evaluate(each["expression"], context)]


def test_a_fleet_that_names_nothing_is_allowed():
    assert refusals({}) == []
    lists = ["admissionPolicy.allowedImages={r.example.com/}", "admissionPolicy.allowedSecrets={a}"]
    assert refusals({}, *lists, "admissionPolicy.allowedServiceAccounts={b}") == []


@pytest.mark.parametrize("account", ["controller", "gateway", "redis", "redis-secrets"])
def test_a_service_account_of_the_chart_is_refused(account):
    (message,) = refusals({"pod": {"serviceAccountName": f"rel-batchfleet-{account}"}})
    assert "service account of Batchfleet" in message
    assert refusals({"pod": {"serviceAccountName": "models-reader"}}) == []


@pytest.mark.parametrize("secret", ["redis-user-gateway", "redis-user-controller", "redis-tls", "metrics-api"])
def test_a_secret_of_the_chart_is_refused_wherever_it_is_named(secret):
    name = f"rel-batchfleet-{secret}"
    store = {"url": "s3://models", "optionsSecret": name}
    for spec in ({"model": {"source": {"objectStore": store}}}, {"pod": {"imagePullSecrets": ["own", name]}}):
        (message,) = refusals(spec)
        assert "secret of Batchfleet" in message


def test_a_secret_that_the_values_name_is_refused():
    store = {"objectStore": {"url": "s3://models", "optionsSecret": "keys"}}
    assert refusals({"model": {"source": store}}) == []
    assert refusals({"model": {"source": store}}, "gateway.apiKeysSecret=keys") != []


def test_only_listed_names_are_allowed_where_a_list_is_given():
    images = "admissionPolicy.allowedImages={r.example.com/ml/,busybox:}"
    for spec in (
        {"worker": {"image": "evil/worker:1"}},
        {"model": {"source": {"image": {"reference": "r.example.com/other:1"}}}},
        {"model": {"source": {"emptyDir": {"image": "evil/fill:1"}}}},
    ):
        (message,) = refusals(spec, images)
        assert "r.example.com/ml/, busybox:" in message
    assert refusals({"worker": {"image": "r.example.com/ml/worker@sha256:1"}}, images) == []
    assert refusals({"model": {"source": {"emptyDir": {"image": "busybox:1.37"}}}}, images) == []
    account = {"pod": {"serviceAccountName": "other"}}
    assert refusals(account, "admissionPolicy.allowedServiceAccounts={reader}") != []
    secret = {"pod": {"imagePullSecrets": ["registry", "other"]}}
    assert refusals(secret, "admissionPolicy.allowedSecrets={registry,other}") == []
    assert refusals(secret, "admissionPolicy.allowedSecrets={registry}") != []


def test_the_policy_applies_to_the_namespace_of_the_release_only():
    binding = chart.the("ValidatingAdmissionPolicyBinding", "-fleets")["spec"]
    assert binding["policyName"] == chart.the("ValidatingAdmissionPolicy", "-fleets")["metadata"]["name"]
    assert binding["validationActions"] == ["Deny"]
    labels = binding["matchResources"]["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "ns"}


def test_the_policy_may_be_left_out_and_is_left_out_before_kubernetes_1_30():
    assert "ValidatingAdmissionPolicy" not in chart.kinds("admissionPolicy.enabled=false")
    old = chart.helm("template", "rel", str(chart.CHART), "--kube-version", "v1.29.0")
    assert old.returncode == 0 and "ValidatingAdmissionPolicy" not in old.stdout
