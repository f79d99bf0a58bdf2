"""B01 to B08: bytes that are not HTTP, or whose framing is ambiguous."""

import random

from .raw import CHUNKED, GOOD, HEALTH, INFER, Raw, chunked, chunks, head, post, taken, unparsed

LENGTH = len(GOOD)
# A body that ends in a second request. A server that considers the body shorter answers both.
SMUGGLED = chunked(GOOD) + head(line=HEALTH)
BODY = GOOD + head(line=HEALTH)

LENGTHS = [
    unparsed(f"B01-{name}", head(*fields) + SMUGGLED)
    for name, fields in [
        ("length-and-chunked", [f"content-length: {LENGTH}", CHUNKED]),
        ("chunked-and-length", [CHUNKED, f"content-length: {LENGTH}"]),
        ("chunked-and-length-0", [CHUNKED, "content-length: 0"]),
    ]
] + [
    unparsed(f"B01-{name}", head(*(f"content-length: {value}" for value in values)) + BODY)
    for name, values in [
        ("two-lengths", [LENGTH, LENGTH + 1]),
        ("two-lengths-alike", [LENGTH, LENGTH]),
        ("list", [f"{LENGTH}, {LENGTH}"]),
        ("list-5-5", ["5,5"]),
        ("plus", [f"+{LENGTH}"]),
        ("minus", [-LENGTH]),
        ("hex", [hex(LENGTH)]),
        ("fraction", [f"{LENGTH}.0"]),
        ("space-inside", [f"1 {LENGTH}"]),
        ("text", ["all"]),
        ("empty", [""]),
        ("2-to-64", [2**64 + LENGTH]),
        ("40-digits", ["9" * 40]),
    ]
]

ENCODINGS = [
    unparsed(f"B02-{name}", head(*(f"transfer-encoding: {value}" for value in values)) + SMUGGLED)
    for name, values in [
        ("gzip-chunked", ["gzip, chunked"]),
        ("xchunked", ["xchunked"]),
        ("chunked-identity", ["chunked, identity"]),
        ("identity", ["identity"]),
        ("chunked-chunked", ["chunked, chunked"]),
        ("twice", ["chunked", "chunked"]),
        ("vertical-tab", ["\x0bchunked"]),
        ("quoted", ['"chunked"']),
    ]
] + [
    unparsed("B02-on-http-1.0", head(CHUNKED, line=INFER.replace("1.1", "1.0")) + SMUGGLED),
    unparsed("B02-twice-on-get", head(CHUNKED, CHUNKED, line=HEALTH) + SMUGGLED),
]

CHUNKS = [
    Raw(f"B03-{name}", head(CHUNKED) + body, 400, "cancelled")
    for name, body in [
        ("size-2-to-64", b"10000000000000000\r\n" + BODY),
        ("size-20-digits", b"f" * 20 + b"\r\n" + BODY),
        ("size-text", b"xyz\r\n" + BODY),
        ("size-negative", b"-1\r\n" + BODY),
        ("size-0x", b"0x10\r\n" + BODY),
        ("size-plus", b"+10\r\n" + BODY),
        ("size-empty", b"\r\n" + BODY),
        ("bare-line-feeds", b"%x\n%b\n0\n\n" % (LENGTH, GOOD)),
        ("data-longer-than-size", b"%x\r\n%b0\r\n\r\n" % (LENGTH - 1, GOOD)),
        ("no-line-end-after-data", b"%x\r\n%b0\r\n\r\n" % (LENGTH, GOOD)),
        ("line-feed-in-extension", b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (LENGTH, GOOD)),
        ("second-size-text", chunks(GOOD, 10) + b"z\r\n" + BODY),
    ]
] + [
    taken("B03-extension", head(CHUNKED) + b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (LENGTH, GOOD)),
    taken("B03-one-byte-chunks", head(CHUNKED) + chunked(GOOD, 1)),
    taken(
        "B04-200000-one-byte-chunks",
        head(CHUNKED) + chunked(GOOD + b" " * (200_000 - LENGTH), 1),
    ),
]

HEADERS = [
    unparsed(f"B05-{name}", post(*fields))
    for name, fields in [
        ("space-before-colon", ["a : b"]),
        ("tab-before-colon", ["a\t: b"]),
        ("folded", ["a: b\r\n c"]),
        ("nul-in-value", ["a: b\0c"]),
        ("nul-in-name", ["a\0: b"]),
        ("cr-in-value", ["a: b\rc"]),
        ("no-name", [": b"]),
        ("no-colon", ["a"]),
        ("two-hosts", ["host: other"]),
        ("two-hosts-alike", ["host: test"]),
    ]
] + [
    unparsed("B05-no-host", post(host=False)),
    unparsed("B05-space-before-colon-of-length", head(f"content-length : {LENGTH}") + BODY),
]

FULL = [f"h{n}: 1" for n in range(96 - 3)]  # besides host, key and length
SIZES = [
    taken("B06-96-headers", post(*FULL)),
    unparsed("B06-97-headers", post("one: more", *FULL), 431),
    unparsed("B06-10000-headers", post(*(f"h{n}: 1" for n in range(10_000))), 431),
    taken("B06-head-100-kib", post("a: " + "b" * (100 << 10))),
    unparsed("B06-head-128-kib", post("a: " + "b" * (128 << 10)), 431),
    unparsed("B06-head-8-mib", post("a: " + "b" * (8 << 20)), 431),
    unparsed("B06-uri-64-kib", head(line=f"GET /{'a' * (64 << 10)} HTTP/1.1"), 414),
    unparsed("B06-uri-8-mib", head(line=f"GET /{'a' * (8 << 20)} HTTP/1.1"), 431),
    taken("B07-underscores", post("inference_header_content_length: 5")),
    Raw(
        "B07-twice",
        post(*[f"inference-header-content-length: {LENGTH}"] * 2),
        400,
        "bad_header",
        open=True,
    ),
]

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(195))
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + bytes.fromhex("000000040000000000")

OTHER_PROTOCOLS = [
    unparsed(f"B08-{name}", sent)
    for name, sent in [
        ("tls", TLS_HELLO),
        ("nearly-http2", HTTP2),
        ("http-2.0", head(line="GET /v2 HTTP/2.0")),
        ("http-1.2", head(line="GET /v2 HTTP/1.2")),
        ("http-0.9", b"GET /v2\r\n\r\n"),
        ("ssh", b"SSH-2.0-OpenSSH_9.9\r\n"),
        ("redis", b"*1\r\n$4\r\nPING\r\n"),
        ("nuls", bytes(1000)),
        *((f"random-{seed}", random.Random(seed).randbytes(1000)) for seed in range(5)),
    ]
]

CASES: list[Raw] = [
    *LENGTHS,
    *ENCODINGS,
    *CHUNKS,
    *HEADERS,
    *SIZES,
    *OTHER_PROTOCOLS,
]
