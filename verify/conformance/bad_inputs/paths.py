"""B09 to B22, and B68: paths, methods, names, sizes and content types."""

from .case import Case, encode, good, request

GOOD = encode(request())
INFER = "/v2/models/echo_fp32/infer"
LIMIT = 64 << 20

METHODS = [
    Case(
        f"B09-{method}-on-{name}",
        405,
        "method_not_allowed",
        path=path,
        method=method,
        holds=lambda answer, allowed=allowed: answer.headers["allow"] == allowed,
    )
    for name, method, path, allowed in [
        ("infer", "GET", INFER, "POST"),
        ("infer", "PUT", INFER, "POST"),
        ("infer", "DELETE", "/v2/models/versioned/versions/1/infer", "POST"),
        ("live", "POST", "/v2/health/live", "GET, HEAD"),
        ("ready", "POST", "/v2/health/ready", "GET, HEAD"),
        ("server", "POST", "/v2", "GET, HEAD"),
        ("model", "POST", "/v2/models/echo_fp32", "GET, HEAD"),
        ("model-ready", "POST", "/v2/models/echo_fp32/ready", "GET, HEAD"),
        ("config", "POST", "/v2/models/echo_fp32/config", "GET, HEAD"),
        ("stats", "POST", "/v2/models/stats", "GET, HEAD"),
        ("index", "GET", "/v2/repository/index", "POST"),
        ("openapi", "POST", "/openapi.json", "GET, HEAD"),
    ]
]

UNKNOWN_PATHS = [
    Case(f"B09-unknown-path-{name}", 404, "not_found", path=path, method="GET")
    for name, path in [
        ("root", "/"),
        ("v1", "/v1/models/echo_fp32"),
        ("deeper", f"{INFER}/more"),
        ("favicon", "/favicon.ico"),
    ]
]

FOR_OPERATORS = [
    Case(f"B68-{path[1:].replace('/', '-')}", 404, "not_found", path=path, method="GET")
    for path in [
        "/metrics",
        "/debug",
        "/debug/pprof",
        "/admin",
        "/livez",
        "/readyz",
        "/healthz",
        "/status",
        "/config",
        "/env",
        "/v2/metrics",
        "/v2/repository",
        "/v2/admin",
        "/.env",
        "//metrics",
        "/v2/../metrics",
        "/%6detrics",
    ]
] + [
    Case(f"B68-{name}", 400, "unsupported", path=f"/v2/repository/models/echo_fp32/{name}")
    for name in ["load", "unload"]
]

MODEL_NAMES = [
    Case(f"B10-model-{name}", 404, "model_not_found", GOOD, path=f"/v2/models/{model}/infer")
    for name, model in [
        ("dots-escaped", "..%2f..%2fetc"),
        ("dots-upper", "..%2F..%2Fetc"),
        ("dots", "%2e%2e"),
        ("nul", "%00"),
        ("bad-escape", "%zz"),
        ("empty", ""),
        ("129-characters", "a" * 129),
        ("non-ascii", "mod%C3%A8le"),
        ("not-utf8", "%ff%fe"),
        ("right-to-left", "echo%E2%80%AE_fp32"),
        ("space", "echo%20fp32"),
        ("colon", "echo_fp32:1"),
        ("braces", "%7Becho_fp32%7D"),
        ("newline", "echo_fp32%0d%0a"),
    ]
]

VERSIONS = [
    Case(
        f"B11-version-{version or 'empty'}",
        404,
        "model_not_found",
        GOOD,
        path=f"/v2/models/versioned/versions/{version}/infer",
    )
    for version in ["0x1", "-1", "01", "0", "+1", "1.0", "9" * 20, "latest", "%31%20", "2"]
]

UNKNOWN_MODELS = [
    Case("B12-unknown-model", 404, "model_not_found", GOOD, model="cats"),
    Case("B12-unknown-model-bad-body", 404, "model_not_found", b"{", model="cats"),
    *(
        Case(f"B12-unknown-model-{what}", 404, "model_not_found", path=path, method="GET")
        for what, path in [
            ("metadata", "/v2/models/cats"),
            ("ready", "/v2/models/cats/ready"),
            ("config", "/v2/models/cats/config"),
            ("stats", "/v2/models/cats/stats"),
        ]
    ),
]

SIZES = [
    Case("B17-a-byte-over-the-limit", 413, "too_large", announced=LIMIT + 1),
    Case("B17-far-over-the-limit", 413, "too_large", announced=1 << 50),
    Case("B17-over-the-limit-and-sent", 413, "too_large", bytes(LIMIT + 1)),
]

FORM = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d` sends
CONTENT_TYPES = [
    Case(f"B22-{name}", 415, "unsupported_media_type", GOOD, headers={"content-type": kind})
    for name, kind in [
        ("xml", "application/xml"),
        ("multipart", "multipart/form-data; boundary=x"),
        ("text", "text/plain"),
        ("utf16", "application/json; charset=utf-16"),
        ("latin1", 'application/json;charset="iso-8859-1"'),
    ]
] + [
    Case(f"B22-form-{name}", 415, "unsupported_media_type", body, headers={**FORM, **more})
    for name, body, more in [
        ("of-a-page", GOOD, {"origin": "https://page.example"}),
        ("of-a-page-without-an-address", GOOD, {"origin": "null"}),
        ("with-fields", b"inputs=1", {}),
        ("empty", b"", {}),
    ]
] + [
    good(f"B22-taken-{name}", GOOD, headers=headers)
    for name, headers in [
        ("none", {}),
        ("form", FORM),
        ("vendor", {"content-type": "application/vnd.example.infer+json"}),
        ("utf8", {"content-type": "application/json; charset=utf8"}),
        ("json", {"content-type": "application/json"}),
        ("json-utf8", {"content-type": 'Application/JSON; charset="UTF-8"'}),
        ("octet-stream", {"content-type": "application/octet-stream"}),
    ]
]

CASES = [
    *METHODS,
    *UNKNOWN_PATHS,
    *FOR_OPERATORS,
    *MODEL_NAMES,
    *VERSIONS,
    *UNKNOWN_MODELS,
    *SIZES,
    *CONTENT_TYPES,
]
