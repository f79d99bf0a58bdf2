"""B63 to B67: keys, models and classes of clients, and headers about the client."""

import base64
import hashlib
import hmac
import json

from wire import KEY

from .case import Case, bad, encode, good, request

GOOD = encode(request())
NARROW = "a key for one model"
RATED = "a key for a request in 100 s"
ALONE = "a key for a request at a time"
LOW = "a key for the lowest class"

CLIENTS = {
    KEY: "all class=critical",
    NARROW: "narrow models=echo_fp32,unknown",
    RATED: "rated rate=0.01",
    ALONE: "alone in-flight=1",
    LOW: "low class=sheddable",
}


def key_file() -> str:
    lines = (f"{hashlib.sha256(key.encode()).hexdigest()} {who}" for key, who in CLIENTS.items())
    return "# Clients of the tests\n\n" + "\n".join(lines) + "\n"


def token(header: dict, claims: dict, secret: bytes | None) -> str:
    """A JSON Web Token."""
    parts = (json.dumps(part).encode() for part in (header, claims))
    signed = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    signature = hmac.digest(secret, signed.encode(), "sha256") if secret else b""
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


PUBLIC_KEY = b"-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQAD\n-----END PUBLIC KEY-----\n"
CLAIMS = {"sub": "all", "aud": "batchfleet", "exp": 4_000_000_000}
HS256 = {"alg": "HS256", "typ": "JWT"}

# Servers accept keys, not tokens: every token is refused, regardless of claims and signature.
TOKENS = {
    "expired": token(HS256, CLAIMS | {"exp": 1}, b"secret"),
    "algorithm-none": token({"alg": "none", "typ": "JWT"}, CLAIMS, None),
    "signed-with-the-public-key": token(HS256, CLAIMS, PUBLIC_KEY),
    "unknown-kid": token(HS256 | {"kid": "../../dev/null"}, CLAIMS, b""),
    "wrong-audience": token(HS256, CLAIMS | {"aud": "other"}, b"secret"),
}

UNKNOWN = [
    Case(
        f"B63-{name}",
        401,
        "unauthorized",
        GOOD,
        headers={"x-api-key": None} | headers,
        holds=lambda answer: answer.headers["www-authenticate"] == "Bearer",
    )
    for name, headers in [
        ("no-key", {}),
        ("empty", {"x-api-key": ""}),
        ("wrong-key", {"x-api-key": "guessed"}),
        ("a-byte-short", {"x-api-key": KEY[:-1]}),
        ("a-byte-more", {"x-api-key": KEY + "x"}),
        ("other-case", {"x-api-key": KEY.upper()}),
        ("hash-of-a-key", {"x-api-key": hashlib.sha256(KEY.encode()).hexdigest()}),
        ("name-of-a-client", {"x-api-key": "all"}),
        ("60-kib", {"x-api-key": "a" * (60 << 10)}),
        ("bearer-wrong", {"authorization": "Bearer guessed"}),
        ("bearer-empty", {"authorization": "Bearer"}),
        ("basic", {"authorization": f"Basic {base64.b64encode(KEY.encode()).decode()}"}),
        ("in-a-cookie", {"cookie": f"x-api-key={KEY}"}),
        *((f"token-{name}", {"authorization": f"Bearer {jwt}"}) for name, jwt in TOKENS.items()),
    ]
] + [
    Case(
        f"B63-no-key-{name}",
        401,
        "unauthorized",
        path=path,
        method=method,
        headers={"x-api-key": None},
    )
    for name, method, path in [
        ("metadata", "GET", "/v2/models/echo_fp32"),
        ("ready", "GET", "/v2/models/echo_fp32/ready"),
        ("config", "GET", "/v2/models/echo_fp32/config"),
        ("stats", "GET", "/v2/models/echo_fp32/stats"),
        ("all-stats", "GET", "/v2/models/stats"),
        ("index", "POST", "/v2/repository/index"),
        ("unknown-model", "GET", "/v2/models/cats"),
    ]
]

NARROWED = {"x-api-key": NARROW}
FORBIDDEN = [
    Case("B64-model-not-allowed", 404, "model_not_found", GOOD, "fixed", headers=NARROWED),
    *(
        Case(
            f"B64-model-not-allowed-{name}",
            404,
            "model_not_found",
            path=path,
            method="GET",
            headers=NARROWED,
        )
        for name, path in [
            ("metadata", "/v2/models/fixed"),
            ("ready", "/v2/models/fixed/ready"),
            ("config", "/v2/models/fixed/config"),
            ("stats", "/v2/models/fixed/stats"),
            ("version", "/v2/models/versioned/versions/1"),
        ]
    ),
    good("B64-taken-model-allowed", GOOD, headers=NARROWED),
]

HEADERS = [
    bad(f"B66-{name}", GOOD, "bad_parameter", headers=headers)
    for name, headers in [
        ("deadline-0", {"x-request-timeout-ms": "0"}),
        ("deadline-negative", {"x-request-timeout-ms": "-1"}),
        ("deadline-text", {"x-request-timeout-ms": "soon"}),
        ("deadline-fraction", {"x-request-timeout-ms": "1.5"}),
        ("deadline-empty", {"x-request-timeout-ms": ""}),
        ("deadline-over-u64", {"x-request-timeout-ms": str(2**64)}),
        ("priority-unknown", {"x-priority": "highest"}),
        ("priority-empty", {"x-priority": ""}),
    ]
] + [
    bad(
        "B66-deadline-twice",
        GOOD,
        "bad_header",
        headers={"x-request-timeout-ms": "500\r\nx-request-timeout-ms: 600"},
    ),
    good("B66-deadline-above-the-most", GOOD, headers={"x-request-timeout-ms": str(2**63)}),
    good(
        "B66-priority-not-allowed",
        GOOD,
        headers={"x-api-key": LOW, "x-priority": "critical"},
    ),
]

IGNORED = [
    good(f"B67-{name}", GOOD, headers=headers)
    for name, headers in [
        ("traceparent-malformed", {"traceparent": "00-zz-1"}),
        ("traceparent-empty", {"traceparent": ""}),
        ("traceparent-of-zeros", {"traceparent": f"00-{'0' * 32}-{'0' * 16}-00"}),
        ("traceparent-64-kib", {"traceparent": "0" * (64 << 10)}),
        ("tracestate-64-kib", {"tracestate": "a=b," * (16 << 10)}),
        ("forwarded-for-nobody", {"x-forwarded-for": "nobody, 999.1.1.1, ::g"}),
        ("forwarded-for-8192", {"x-forwarded-for": "1.1.1.1," * (8 << 10)}),
    ]
]

CASES: list[Case] = [*UNKNOWN, *FORBIDDEN, *HEADERS, *IGNORED]
