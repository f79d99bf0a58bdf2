"""B13, B18 and B19: bodies over the limit. B20 and B21: compressed bodies."""

import gzip
import zlib

from .case import Case, bad, good
from .raw import CHUNKED, GOOD, Raw, chunked, chunks, head, post, taken

LIMIT = 4 << 20  # of the servers that get raw cases
AHEAD = "expect: 100-continue"
STEP = 64 << 10
FULL = GOOD + b" " * (LIMIT - len(GOOD))


def too_large(name: str, sent: bytes) -> Raw:
    return Raw(name, sent, 413, "too_large")


EXPECTING = [
    too_large("B13-over-the-limit", head(f"content-length: {LIMIT + 1}", AHEAD)),
    too_large("B13-far-over-the-limit", head(f"content-length: {1 << 60}", AHEAD)),
    *(
        Raw(f"B13-{name}", head("content-length: 9", AHEAD, key=key), 401, "unauthorized")
        for name, key in [("no-key", None), ("wrong-key", "guessed")]
    ),
    taken("B13-something-else", post("expect: the-unexpected")),
]

CHUNKS = [
    too_large(f"B18-{name}", head(CHUNKED) + body)
    for name, body in [
        ("chunked-over-the-limit", chunks(FULL + b" ", STEP)),
        ("one-chunk-over-the-limit", chunks(FULL + b" ", LIMIT + 1)),
        ("chunked-64-mib", chunked(bytes(64 << 20))),
    ]
] + [
    taken("B18-at-the-limit", head(CHUNKED) + chunked(FULL)),
    taken("B18-at-the-limit-and-announced", post(body=FULL)),
]


def compressed(name: str, body: bytes, encoding: str = "gzip", make=bad, **more) -> Case:
    return make(name, body, headers={"content-encoding": encoding}, **more)


GZIP = gzip.compress(GOOD)
ZLIB = zlib.compress(GOOD)
LONG = gzip.compress(GOOD + b" " * (1 << 20))
DEFLATE = zlib.compress(GOOD, wbits=-15)  # without zlib's header and checksum


def flipped(body: bytes, at: int) -> bytes:
    """The body with one byte changed."""
    at %= len(body)
    return body[:at] + bytes([body[at] ^ 0x55]) + body[at + 1 :]


DAMAGED = [
    compressed(f"B20-{name}", body, encoding, code="bad_encoding")
    for name, body, encoding in [
        ("gzip-empty", b"", "gzip"),
        ("gzip-head-only", GZIP[:10], "gzip"),
        ("gzip-cut", GZIP[: len(GZIP) // 2], "gzip"),
        ("gzip-without-sums", GZIP[:-8], "gzip"),
        ("gzip-cut-by-a-byte", GZIP[:-1], "gzip"),
        ("gzip-long-cut", LONG[:-1], "gzip"),
        ("gzip-corrupt", flipped(GZIP, len(GZIP) // 2), "gzip"),
        ("gzip-wrong-checksum", flipped(GZIP, -8), "gzip"),
        ("gzip-wrong-length", flipped(GZIP, -1), "gzip"),
        ("gzip-two-members", GZIP + GZIP, "gzip"),
        ("gzip-and-nul", GZIP + b"\0", "gzip"),
        ("plain-as-gzip", GOOD, "gzip"),
        ("zlib-as-gzip", ZLIB, "gzip"),
        ("gzip-of-gzip-cut", gzip.compress(GZIP)[:-1], "gzip"),
        ("deflate-cut", ZLIB[:-1], "deflate"),
        ("deflate-corrupt", flipped(ZLIB, -1), "deflate"),
        ("deflate-without-zlib", DEFLATE, "deflate"),
        ("gzip-as-deflate", GZIP, "deflate"),
        ("plain-as-deflate", GOOD, "deflate"),
    ]
] + [
    compressed("B20-gzip-of-gzip", gzip.compress(GZIP), code="bad_json"),
    compressed("B20-gzip-of-nothing", gzip.compress(b""), code="bad_json"),
    good("B20-taken-plain", GOOD, headers={"content-encoding": "identity"}),
    *(
        compressed(f"B20-taken-{encoding}", body, encoding, good)
        for encoding, body in [("gzip", GZIP), ("GZip", GZIP), ("x-gzip", LONG), ("deflate", ZLIB)]
    ),
]

ENCODINGS = [
    Case(
        f"B21-{name}",
        415,
        "unsupported_media_type",
        GZIP,
        headers={"content-encoding": encoding},
        holds=lambda answer: answer.headers["accept-encoding"] == "gzip, deflate",
    )
    for name, encoding in [
        ("zstd", "zstd"),
        ("br", "br"),
        ("foo", "foo"),
        ("empty", ""),
        ("gzip-gzip", "gzip, gzip"),
        ("identity-gzip", "identity, gzip"),
        ("twice", "gzip\r\ncontent-encoding: gzip"),
    ]
]

CASES: list[Case] = [*DAMAGED, *ENCODINGS]
RAW: list[Raw] = [*EXPECTING, *CHUNKS]

BOMB = bytes(64 << 20)
BOMBS = {"gzip": gzip.compress(BOMB), "deflate": zlib.compress(BOMB, 9)}
