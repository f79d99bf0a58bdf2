"""Access to gateways: TLS, client certificates, tokens, API keys, and the refusal of an open gateway."""

import pytest

import chart
from chart import kinds, refusal, the

JWT = ["gateway.jwt.issuer=https://id", "gateway.jwt.audiences={a,b}"]
TLS = "gateway.tls.secret=my-tls"
CLIENT_CA = "gateway.tls.clientCaSecret=my-ca"
EXPOSED = [
    ["gateway.service.type=LoadBalancer"],
    ["gateway.service.type=NodePort"],
    ["gateway.ingress.enabled=true"],
    ["gateway.httpRoute.enabled=true", "gateway.httpRoute.parentRefs[0].name=public"],
    ["gateway.grpcRoute.enabled=true", "gateway.grpcRoute.parentRefs[0].name=public"],
]
AUTHENTICATED = [
    ["gateway.apiKeysSecret=my-keys"],
    [TLS, CLIENT_CA],
    [*JWT, "gateway.jwt.jwksUrl=https://id/keys"],
]


def gateway(*settings: str) -> dict:
    return the("Deployment", "-gateway", *settings)


def arguments(*settings: str) -> list[str]:
    return chart.pod_of(gateway(*settings))["containers"][0]["args"]


def files(*settings: str) -> dict[str, str]:
    """The secret behind each folder that the gateway mounts."""
    pod = chart.pod_of(gateway(*settings))
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    mounts = pod["containers"][0]["volumeMounts"]
    return {each["mountPath"]: secrets[each["name"]] for each in mounts if each["name"] in secrets}


@pytest.mark.parametrize("exposed", EXPOSED)
def test_an_exposed_gateway_needs_authentication_or_an_explicit_consent(exposed):
    assert "gateway.allowAnonymous=true" in refusal(*exposed)
    assert "tls.secret" not in refusal(*exposed, TLS), "HTTPS alone authenticates no client"
    for settings in [*AUTHENTICATED, ["gateway.allowAnonymous=true"]]:
        assert "Deployment" in kinds(*exposed, *settings)


def test_a_gateway_inside_the_cluster_needs_no_consent():
    assert "Deployment" in kinds("gateway.allowAnonymous=false")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ([CLIENT_CA], "needs gateway.tls.secret"),
        (["gateway.jwt.issuer=https://id"], "needs gateway.jwt.audiences"),
        ([*JWT, "gateway.jwt.issuer=batchfleet"], "set gateway.jwt.jwksUrl or gateway.jwt.jwksSecret"),
        (
            [*JWT, "gateway.jwt.jwksUrl=https://id/keys", "gateway.jwt.jwksSecret=a"],
            "gateway.jwt.jwksUrl and gateway.jwt.jwksSecret both name the keys of the issuer",
        ),
        ([*JWT, "gateway.jwt.jwksSecret=a", "gateway.jwt.caSecret=b"], "has no effect with gateway.jwt.jwksSecret"),
    ],
)
def test_contradictory_access_is_refused_with_a_remedy(settings, complaint):
    assert complaint in refusal(*settings)


def test_tls_comes_from_the_secrets_and_probes_and_service_use_it():
    settings = [TLS, CLIENT_CA]
    flags = arguments(*settings)
    assert "--tls-cert=/etc/batchfleet/tls/tls.crt" in flags
    assert "--tls-key=/etc/batchfleet/tls/tls.key" in flags
    assert "--tls-client-ca=/etc/batchfleet/client-ca/ca.crt" in flags
    mounted = files(*settings)
    assert mounted["/etc/batchfleet/tls"] == "my-tls"
    assert mounted["/etc/batchfleet/client-ca"] == "my-ca"
    probe = chart.pod_of(gateway(*settings))["containers"][0]["readinessProbe"]
    assert probe["httpGet"]["scheme"] == "HTTPS"
    ports = the("Service", "rel-batchfleet", *settings)["spec"]["ports"]
    assert [port["appProtocol"] for port in ports] == ["https", "https"]
    assert not any("tls" in flag for flag in arguments())


def test_tokens_have_an_issuer_audiences_and_keys_from_a_url_or_a_secret():
    url = [*JWT, "gateway.jwt.jwksUrl=https://id:8443/keys", "gateway.jwt.caSecret=my-ca"]
    flags = arguments(*url)
    assert "--jwt-issuer=https://id" in flags
    assert "--jwt-audience=a,b" in flags
    assert "--jwt-jwks-url=https://id:8443/keys" in flags
    assert "--jwt-jwks-ca=/etc/batchfleet/jwks-ca/ca.crt" in flags
    assert files(*url)["/etc/batchfleet/jwks-ca"] == "my-ca"
    egress = the("NetworkPolicy", "-gateway", *url)["spec"]["egress"]
    assert [{"port": 8443}] in [rule["ports"] for rule in egress]

    discovered = [*JWT, "gateway.jwt.issuer=https://id:9443/realm", "gateway.jwt.caSecret=my-ca"]
    assert not any("jwks-url" in flag or "jwks-file" in flag for flag in arguments(*discovered))
    assert "--jwt-jwks-ca=/etc/batchfleet/jwks-ca/ca.crt" in arguments(*discovered)
    egress = the("NetworkPolicy", "-gateway", *discovered)["spec"]["egress"]
    assert [{"port": 9443}] in [rule["ports"] for rule in egress]

    secret = [*JWT, "gateway.jwt.jwksSecret=my-keys"]
    assert "--jwt-jwks-file=/etc/batchfleet/jwks/jwks.json" in arguments(*secret)
    assert files(*secret)["/etc/batchfleet/jwks"] == "my-keys"


@pytest.mark.parametrize("settings", [*AUTHENTICATED, [TLS]])
def test_helm_test_has_no_credentials_and_no_authority(settings):
    assert "Pod" not in kinds("demo.enabled=true", *settings)


def notes(*settings: str) -> str:
    arguments = [part for setting in ["demo.enabled=true", *settings] for part in ("--set", setting)]
    rendered = chart.helm("install", "rel", str(chart.CHART), "--dry-run=client", *arguments)
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout.split("NOTES:")[1]


def test_the_notes_warn_of_an_open_gateway_and_name_the_credential():
    warning = "WARNING: requests need no authentication"
    assert warning in notes()
    assert warning in notes("gateway.allowAnonymous=true", "gateway.service.type=LoadBalancer")
    for settings in AUTHENTICATED:
        assert warning not in notes(*settings)
    assert '-H "authorization: Bearer $TOKEN"' in notes(*AUTHENTICATED[2])
    assert "--cert client.crt --key client.key" in notes(*AUTHENTICATED[1])
    assert "https://127.0.0.1:8080" in notes(*AUTHENTICATED[1])
