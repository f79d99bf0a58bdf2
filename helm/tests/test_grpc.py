"""gRPC: the port of the gateways, the Services in front of it, and the route to it."""

import chart
from chart import kinds, the

HEADLESS = "gateway.grpc.headless=true"
ROUTE = ["gateway.grpcRoute.enabled=true", "gateway.grpcRoute.parentRefs[0].name=public"]
OPEN = "gateway.allowAnonymous=true"


def ports(service: str, *settings: str) -> dict[str, dict]:
    return {port["name"]: port for port in the("Service", service, *settings)["spec"]["ports"]}


def container(*settings: str) -> dict:
    return chart.pod_of(the("Deployment", "-gateway", *settings))["containers"][0]


def admitted(*settings: str) -> list[str]:
    """The ports that clients may reach."""
    rules = the("NetworkPolicy", "-gateway", *settings)["spec"]["ingress"]
    return [port["port"] for port in rules[0]["ports"]]


def test_gateways_serve_grpc_on_a_port_of_their_own():
    gateway = container()
    assert "--grpc-listen=[::]:8001" in gateway["args"]
    assert {"name": "grpc", "containerPort": 8001} in gateway["ports"]
    port = ports("rel-batchfleet")["grpc"]
    assert (port["port"], port["targetPort"]) == (8001, "grpc")
    assert port["appProtocol"] == "kubernetes.io/h2c"
    assert admitted() == ["http", "grpc"]


def test_grpc_may_be_turned_off():
    off = "gateway.grpc.enabled=false"
    assert not any("grpc" in flag for flag in container(off)["args"])
    assert ports("rel-batchfleet", off).keys() == {"http"}
    assert admitted(off) == ["http"]


def test_a_headless_service_shows_clients_every_gateway():
    service = the("Service", "-headless", HEADLESS)["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == the("Service", "rel-batchfleet")["spec"]["selector"]
    assert ports("-headless", HEADLESS)["grpc"]["port"] == 8001


def test_a_route_leads_to_the_port_of_grpc():
    assert "GRPCRoute" not in kinds()
    route = the("GRPCRoute", "rel-batchfleet", OPEN, *ROUTE, "gateway.grpc.port=9000")
    [rule] = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "rel-batchfleet", "port": 9000}]
    assert route["spec"]["parentRefs"] == [{"name": "public"}]
