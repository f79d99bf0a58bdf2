"""B49 to B58: the binary form."""

import math
import struct

from .case import Case, bad, binary, binary_tensor, encode, floats, good, request, strings, tensor

PAIR = floats(1.5, -2.5)
HEAD = encode(request(binary_tensor(8)))
RAW = {"Inference-Header-Content-Length": "0"}
BACK = {"parameters": {"binary_data_output": True}}


def sized(name: str, size: object, tail: bytes = PAIR, **fields) -> Case:
    """A request whose tensor claims `size` bytes."""
    return bad(name, **binary(request(binary_tensor(size, **fields)), tail))


def back(name: str, data: bytes, model: str = "echo_fp32", **fields) -> Case:
    """A tensor that the server must return unchanged, bit by bit."""
    head = request(binary_tensor(len(data), **fields), **BACK)
    holds = lambda answer: answer.body.endswith(data)  # noqa: E731
    return good(name, **binary(head, data), model=model, holds=holds)


HEADERS = [
    bad("B49-no-header", HEAD, "bad_binary"),
    bad("B49-no-header-but-bytes", HEAD + PAIR),
] + [
    bad(f"B50-header-{name}", **binary(HEAD, PAIR, length))
    for name, length in [
        ("negative", -1),
        ("text", "all"),
        ("plus", f"+{len(HEAD)}"),
        ("hex", hex(len(HEAD))),
        ("fraction", f"{len(HEAD)}.0"),
        ("empty", ""),
        ("list", f"{len(HEAD)}, {len(HEAD)}"),
        ("over-the-body", len(HEAD) + len(PAIR) + 1),
        ("over-i64", 2**63),
        ("over-u64", 2**64 + len(HEAD)),
        ("inside-the-json", len(HEAD) - 1),
        ("one", 1),
        ("into-the-tensor", len(HEAD) + 4),
    ]
]

RAW_BODIES = [
    good(
        "B51-raw-one-input",
        PAIR,
        headers=RAW,
        holds=lambda answer: (
            answer.body.endswith(PAIR)
            and answer.headers["content-type"] == "application/octet-stream"
        ),
    ),
    bad("B51-raw-two-inputs", PAIR, headers=RAW, model="two_inputs"),
    bad("B51-raw-not-whole-elements", PAIR[:-1], headers=RAW),
    bad("B51-raw-not-the-models-size", PAIR, headers=RAW, model="fixed"),
]

SIZES = [
    sized("B52-size-negative", -8),
    sized("B52-size-fraction", 8.0),
    sized("B52-size-string", "8"),
    sized("B52-size-true", True),
    sized("B52-size-array", [8]),
    sized("B52-size-over-the-rest", 9, shape=[1, 2]),
    sized("B52-size-far-over-the-rest", 1 << 40, shape=[1, 1 << 38]),
    sized("B52-size-2-to-64", 2**64),
    bad(
        "B52-sum-overflow",
        **binary(
            request(
                binary_tensor(2**63 + 8),
                binary_tensor(2**63, name="INPUT1", datatype="INT32"),
            ),
            PAIR,
        ),
        model="two_inputs",
    ),
    sized("B53-bytes-left-over", 8, PAIR + b"\0"),
    bad("B53-bytes-after-json-data", **binary(request(), PAIR)),
    sized("B53-sum-short-of-the-body", 8, PAIR + PAIR),
    sized("B53-body-short", 8, PAIR[:-1]),
    sized("B54-size-not-the-shapes", 8, shape=[1, 3]),
    sized("B54-size-not-whole-elements", 7, PAIR[:7]),
    sized("B54-size-0", 0, b""),
    bad(
        "B54-both-data-and-size",
        **binary(request(tensor(parameters={"binary_data_size": 8})), PAIR),
    ),
]

BOOLS = [
    bad(
        f"B55-bool-{byte}",
        **binary(request(binary_tensor(2, datatype="BOOL")), bytes([1, byte])),
        model="echo_bool",
    )
    for byte in (2, 128, 255)
]


def elements(name: str, data: bytes, shape: list[int]) -> Case:
    """Strings in binary that do not match their shape."""
    head = request(binary_tensor(len(data), datatype="BYTES", shape=shape))
    return bad(name, **binary(head, data), model="echo_bytes")


STRINGS = [
    elements("B56-length-past-the-end", struct.pack("<I", 5) + b"abcd", [1, 1]),
    elements("B56-length-far-past-the-end", struct.pack("<I", 2**32 - 1) + b"abcd", [1, 1]),
    elements("B56-length-cut", b"\x01\x00\x00", [1, 1]),
    elements("B56-too-few", strings(b"a", b"b"), [1, 3]),
    elements("B56-too-many", strings(b"a", b"b"), [1, 1]),
    elements("B56-none", b"", [1, 1]),
]

NON_FINITE = [
    back(
        f"B57-{kind}-{number}",
        struct.pack(form, number),
        f"echo_{kind.lower()}",
        datatype=kind,
        shape=[1, 1],
    )
    for kind, form in [("FP16", "<e"), ("FP32", "<f"), ("FP64", "<d")]
    for number in (math.nan, math.inf, -math.inf)
]

# The length of the JSON moves the tensor to every offset modulo 8.
OFFSETS = [
    good(
        f"B58-{kind}-at-offset-{offset}",
        **binary(head + " " * ((offset - len(head)) % 8), data),
        model=f"echo_{kind.lower()}",
        holds=lambda answer, data=data: answer.body.endswith(data),
    )
    for kind, data in [("FP32", PAIR), ("FP64", struct.pack("<2d", 1 / 3, -2))]
    for head in [encode(request(binary_tensor(len(data), datatype=kind), **BACK)).decode()]
    for offset in range(8)
]

CASES: list[Case] = [
    *HEADERS,
    *RAW_BODIES,
    *SIZES,
    *BOOLS,
    *STRINGS,
    *NON_FINITE,
    *OFFSETS,
]
