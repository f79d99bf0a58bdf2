"""B23 to B31: bodies that are not JSON, or not a request."""

from .case import Case, bad, encode, good, literal, request, tensor

GOOD = encode(request())
TEXT = GOOD.decode()


def nested(depth: int) -> str:
    """The plain request with an unknown field of nested arrays, `depth` levels in all."""
    return TEXT[:-1] + ', "more": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


BROKEN = [
    bad(f"B23-{name}", body, "bad_json")
    for name, body in [
        ("empty", ""),
        ("blank", " \n"),
        ("brace", "{"),
        ("cut-in-string", TEXT[: TEXT.index("INPUT0") + 3]),
        ("cut-in-number", TEXT[: TEXT.index("]")]),
        ("trailing-brace", TEXT + "}"),
        ("trailing-object", TEXT + TEXT),
        ("trailing-nul", TEXT + "\0"),
    ]
]

ENCODINGS = [
    bad(f"B24-{name}", body, "bad_json")
    for name, body in [
        ("byte-order-mark", b"\xef\xbb\xbf" + GOOD),
        ("utf16", TEXT.encode("utf-16")),
        ("utf16-le", TEXT.encode("utf-16-le")),
        ("utf32", TEXT.encode("utf-32")),
        ("invalid-utf8", GOOD[:-1] + b', "a": "\xff"}'),
        ("overlong", GOOD[:-1] + b', "a": "\xc0\xaf"}'),
        ("surrogate-bytes", GOOD[:-1] + b', "a": "\xed\xa0\x80"}'),
        ("lone-surrogate", GOOD[:-1] + rb', "a": "\ud800"}'),
        ("lone-surrogate-in-id", GOOD[:-1] + rb', "id": "\udc00x"}'),
        ("cut-utf8", GOOD[:-1] + b', "a": "\xe2\x98"}'),
    ]
]

NESTING = [
    good("B25-depth-128", nested(128)),
    bad("B25-depth-129", nested(129), "bad_json"),
    bad("B25-100000-brackets", "[" * 100_000, "bad_json"),
    bad("B25-100000-objects", '{"a":' * 100_000, "bad_json"),
    bad("B25-100000-brackets-in-data", literal("[" * 100_000)),
]

LITERALS = [
    bad(f"B26-{name}", literal(text), "bad_json")
    for name, text in [
        ("nan", "NaN"),
        ("infinity", "Infinity"),
        ("minus-infinity", "-Infinity"),
        ("1e400", "1e400"),
        ("leading-zero", "01"),
        ("plus", "+1"),
        ("hex", "0x1F"),
        ("no-fraction", "1."),
        ("no-integer", ".5"),
        ("minus", "-"),
        ("block-comment", "1 /* one */"),
        ("line-comment", "1 // one\n"),
        ("trailing-comma", "1,"),
        ("single-quotes", "'1'"),
        ("capital", "True"),
    ]
] + [bad("B26-trailing-comma-in-object", TEXT[:-1] + ",}", "bad_json")]

ROOTS = [
    bad(f"B27-root-{name}", body, "bad_request")
    for name, body in [
        ("array", f"[{TEXT}]"),
        ("string", '"inputs"'),
        ("number", "7"),
        ("true", "true"),
        ("null", "null"),
    ]
]

REPEATED = [
    bad(f"B28-{name}", body)
    for name, body in [
        ("inputs", TEXT[:-1] + ', "inputs": []}'),
        ("id", TEXT[:-1] + ', "id": "a", "id": "a"}'),
        ("escaped", TEXT[:-1] + r', "id": "a", "\u0069d": "b"}'),
        ("shape", TEXT.replace('"shape"', '"shape": [1, 2], "shape"')),
        ("data", TEXT.replace('"data"', '"data": [3, 4], "data"')),
        ("parameters", TEXT[:-1] + ', "parameters": {"timeout": 1000000, "timeout": 2000000}}'),
        ("unknown", TEXT[:-1] + ', "more": [{"a": {"b": 1, "b": 2}}]}'),
        ("outputs", TEXT[:-1] + ', "outputs": [{"name": "OUTPUT0", "name": "OUTPUT0"}]}'),
    ]
]

UNKNOWN = [
    good(
        "B29-unknown-fields",
        request(
            tensor(unit="cm", more={"a": [None, 1.5]}),
            model_name="a name that KServe sends",
            outputs=[{"name": "OUTPUT0", "why": None}],
            parameters={"tenant": "a"},
            extra=[[{}]],
        ),
        holds=lambda answer: answer.outputs() == {"OUTPUT0": [1.0, 2.0]},
    )
]

IDS = [
    bad(f"B30-id-{name}", request(id=value), "bad_id")
    for name, value in [
        ("256-bytes", "a" * 256),
        ("128-wide-characters", "é" * 128),
        ("a-megabyte", "a" * (1 << 20)),
        ("number", 7),
        ("true", True),
        ("array", ["a"]),
        ("object", {}),
    ]
] + [
    good(
        f"B31-id-{name}",
        request(id=value),
        holds=lambda answer, value=value: answer.json()["id"] == value,
    )
    for name, value in [
        ("255-bytes", "a" * 255),
        ("empty", ""),
        ("nul", "a\0b"),
        ("newline", "a\nlevel=error forged=true\r\n"),
        ("quotes", '"},{"id":"other\\'),
        ("script", "</script><script>alert(1)</script>"),
        ("ansi", "\x1b[31mred\x1b[0m\x07"),
        ("wide", "zażółć \u2603 \U0001f600 \u202e"),
        ("delete-and-separators", "\x7f\u2028\u2029"),
    ]
]

CASES: list[Case] = [
    *BROKEN,
    *ENCODINGS,
    *NESTING,
    *LITERALS,
    *ROOTS,
    *REPEATED,
    *UNKNOWN,
    *IDS,
]
