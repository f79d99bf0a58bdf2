"""Large tensors past Redis: the port of gateways for workers, and who may reach it."""

import chart
from chart import the

ENABLED = "gateway.directTensors.enabled=true"


def container(*settings: str) -> dict:
    return chart.pod_of(the("Deployment", "-gateway", *settings))["containers"][0]


def rules(policy: str, direction: str, *settings: str) -> list[dict]:
    """The rules of a network policy for the port for workers."""
    spec = the("NetworkPolicy", policy, *settings)["spec"]
    return [rule for rule in spec[direction] if {"port": "tensors"} in rule.get("ports", [])]


def test_the_port_for_workers_is_closed_by_default():
    gateway = container()
    assert not any("tensors" in flag for flag in gateway["args"])
    assert "tensors" not in [port["name"] for port in gateway["ports"]]
    assert not rules("-gateway", "ingress") and not rules("-worker", "egress")


def test_only_workers_reach_the_port():
    gateway = container(ENABLED)
    assert "--tensors-listen=[::]:8090" in gateway["args"]
    assert {"name": "tensors", "containerPort": 8090} in gateway["ports"]
    workers = the("NetworkPolicy", "-worker", ENABLED)["spec"]["podSelector"]
    gateways = the("NetworkPolicy", "-gateway", ENABLED)["spec"]["podSelector"]
    [ingress] = rules("-gateway", "ingress", ENABLED)
    assert ingress["from"] == [{"podSelector": workers}]
    [egress] = rules("-worker", "egress", ENABLED)
    assert egress["to"] == [{"podSelector": gateways}]


def test_no_service_leads_to_the_port():
    services = [each for each in chart.objects(None, ENABLED) if each["kind"] == "Service"]
    ports = [port for service in services for port in service["spec"]["ports"]]
    assert "tensors" not in [port.get("targetPort") for port in ports]


def test_the_size_from_which_tensors_go_past_redis_is_a_setting():
    flags = container(ENABLED, "gateway.settings.fetchFrom=100000")["args"]
    assert "--fetch-from=100000" in flags
