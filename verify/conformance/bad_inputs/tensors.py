"""B33 to B48: inputs that do not match the model, or contradict themselves."""

from .case import Case, bad, binary, binary_tensor, good, literal, request, strings, tensor, values

MEBI = 1 << 20
SECOND = tensor(name="INPUT1", datatype="INT32")


def inputs(value: object) -> dict:
    return {"inputs": value}


LISTS = [
    bad(f"B33-inputs-{name}", body, "bad_inputs")
    for name, body in [
        ("missing", {"id": "a"}),
        ("null", inputs(None)),
        ("empty", inputs([])),
        ("object", inputs(tensor())),
        ("string", inputs("INPUT0")),
        ("of-null", inputs([None])),
        ("of-arrays", inputs([[]])),
        ("65", inputs([tensor(name=f"INPUT{n}") for n in range(65)])),
        ("100000", inputs([tensor(name=f"INPUT{n}") for n in range(100_000)])),
    ]
]

NAMES = [
    bad("B34-missing-input", request(tensor()), "bad_inputs", model="two_inputs"),
    bad("B34-duplicate", request(tensor(), tensor()), "bad_inputs"),
    bad("B34-duplicate-of-two", request(tensor(), tensor()), "bad_inputs", model="two_inputs"),
    *(
        bad(f"B34-name-{name}", request(tensor(name=value)), "bad_inputs")
        for name, value in [
            ("unknown", "cat"),
            ("other-case", "input0"),
            ("nul", "INPUT0\0"),
            ("empty", ""),
            ("missing", ...),
            ("number", 0),
            ("null", None),
            ("a-megabyte", "a" * MEBI),
        ]
    ),
]

DATATYPES = [
    bad(f"B35-datatype-{name}", request(tensor(datatype=value)), "bad_datatype")
    for name, value in [
        ("missing", ...),
        ("lower-case", "fp32"),
        ("triton", "TYPE_FP32"),
        ("unknown", "FP8"),
        ("empty", ""),
        ("null", None),
        ("number", 11),
        ("not-the-models", "INT32"),
        ("wider-than-the-models", "FP64"),
    ]
] + [
    bad(f"B36-{kind}-as-json", values(1, 2, datatype=kind), model=f"echo_{kind.lower()}")
    for kind in ("FP16", "BF16")
]

SHAPES = [
    bad(f"B37-shape-{name}", request(tensor(shape=shape)), "bad_shape")
    for name, shape in [
        ("missing", ...),
        ("null", None),
        ("number", 2),
        ("string", "[1,2]"),
        ("rank-1", [2]),
        ("rank-3", [1, 1, 2]),
        ("rank-100000", [1] * 100_000),
    ]
] + [
    bad("B37-shape-empty", request(tensor(shape=[], data=[1])), "bad_shape"),
    bad("B37-wrong-fixed-dim", values(1, 2, 3), "bad_shape", model="fixed"),
    bad("B37-transposed", request(tensor(shape=[4, 1], data=[0] * 4)), "bad_shape", model="fixed"),
]

DIMENSIONS = [
    bad(f"B38-dim-{name}", request(tensor(shape=[1, dim])), "bad_shape")
    for name, dim in [
        ("negative", -1),
        ("fraction", 1.5),
        ("whole-fraction", 2.0),
        ("string", "2"),
        ("true", True),
        ("null", None),
        ("array", [2]),
        ("2-to-63", 2**63),
        ("2-to-64-and-2", 2**64 + 2),
        ("30-digits", 10**30),
    ]
]

# The model allows rows of this width: only the product of the dimensions is too large.
OVERFLOWS = [
    bad(f"B39-overflow-{name}", request(tensor(shape=shape)))
    for name, shape in [
        ("rank-3", [2**32, 2**32, 2]),
        ("elements", [2, 2**63 - 1]),
        ("bytes", [1, 2**62]),
        ("to-zero", [4, 2**62]),
        ("to-two", [1, 2**61 + 1]),
        ("rows", [2**33, 2**31]),
    ]
] + [
    bad(f"B40-promises-{name}", request(tensor(shape=shape, data=[1, 2, 3])))
    for name, shape in [("1e9", [1, 10**9]), ("1e12", [1, 10**12]), ("1e9-rows", [10**9, 1])]
]

EMPTY = [
    good(
        "B41-dim-0-allowed",
        request(tensor(shape=[1, 0], data=[])),
        holds=lambda answer: answer.outputs() == {"OUTPUT0": []},
    ),
    good("B41-dim-0-two-rows", request(tensor(shape=[2, 0], data=[]))),
    bad("B41-dim-0-forbidden", request(tensor(shape=[1, 0], data=[])), "bad_shape", model="fixed"),
    bad("B41-no-rows", request(tensor(shape=[0, 2], data=[])), "bad_shape"),
    bad("B41-dim-0-with-values", request(tensor(shape=[1, 0], data=[1])), "bad_data"),
]

BATCHES = [
    bad(
        "B42-batch-dims-differ",
        request(tensor(), SECOND | {"shape": [2, 1]}),
        "bad_shape",
        model="two_inputs",
    ),
    bad("B42-65-rows", request(tensor(shape=[65, 1], data=[0] * 65)), "batch_too_large"),
    bad(
        "B42-5-rows",
        request(tensor(shape=[5, 4], data=[0] * 20)),
        "batch_too_large",
        model="fixed",
    ),
    good("B42-64-rows", request(tensor(shape=[64, 1], data=[0] * 64))),
]

COUNTS = [
    bad("B43-too-few", request(tensor(data=[1])), "bad_data"),
    bad("B43-too-many", request(tensor(data=[1, 2, 3])), "bad_data"),
    bad("B43-none", request(tensor(data=[])), "bad_data"),
    bad("B43-missing", request(tensor(data=...)), "bad_data"),
    bad("B43-null", request(tensor(data=None)), "bad_data"),
    bad("B43-scalar", request(tensor(data=1)), "bad_data"),
    bad("B43-object", request(tensor(data={"0": 1, "1": 2})), "bad_data"),
    bad("B43-base64", request(tensor(data="AACAPwAAAEA=")), "bad_data"),
    bad(
        "B43-the-protocols-example",
        request(tensor(datatype="BOOL", shape=[3], data=[True])),
        "bad_data",
        model="unbatched",
    ),
]

NESTING = [
    bad(f"B44-{name}", request(tensor(shape=[2, 2], data=data)))
    for name, data in [
        ("ragged", [[1, 2], [3]]),
        ("three-rows", [[1, 2], [3, 4], [5, 6]]),
        ("empty-rows", [[], []]),
    ]
] + [
    good(
        f"B44-{name}",
        request(tensor(shape=[2, 2], data=data)),
        holds=lambda answer: answer.outputs() == {"OUTPUT0": [1.0, 2.0, 3.0, 4.0]},
    )
    for name, data in [
        ("nested-rightly", [[1, 2], [3, 4]]),
        ("flat", [1, 2, 3, 4]),
        ("ragged-same-count", [[1, 2, 3], [4]]),
        ("one-row", [[1, 2, 3, 4]]),
        ("columns", [[1], [2], [3], [4]]),
        ("deeper", [[[1, 2], [3, 4]]]),
        ("mixed", [[1, 2], 3, 4]),
        ("mixed-later", [1, 2, [3, 4]]),
    ]
]

ELEMENTS = [
    bad(f"B45-{text}-in-{kind}", literal(text, kind), model=f"echo_{kind.lower()}")
    for kind, text in [
        ("FP32", '"1"'),
        ("FP32", "true"),
        ("FP32", "null"),
        ("FP32", "{}"),
        ("FP64", '"NaN"'),
        ("INT32", "1.5"),
        ("INT32", "1.0"),
        ("INT32", "1e2"),
        ("INT32", '"1"'),
        ("INT32", "null"),
        ("INT32", "true"),
        ("INT32", "2147483648"),
        ("INT8", "-129"),
        ("UINT8", "256"),
        ("UINT8", "-1"),
        ("UINT16", "65536"),
        ("UINT64", "-1"),
        ("BOOL", "1"),
        ("BOOL", "0"),
        ("BOOL", '"true"'),
        ("BOOL", "null"),
        ("BYTES", "1"),
        ("BYTES", "true"),
        ("BYTES", "null"),
    ]
] + [
    good(
        "B45-integer-in-FP32",
        literal("16777217"),
        holds=lambda answer: answer.outputs() == {"OUTPUT0": [16777216.0]},
    )
]

EXACT = [
    good(
        f"{number}-{name}",
        literal(text, kind),
        model=f"echo_{kind.lower()}",
        holds=lambda answer, text=text: answer.body.endswith(b'"data":[' + text.encode() + b"]}]}"),
    )
    for number, name, kind, text in [
        ("B46", "2-to-53-and-1", "INT64", "9007199254740993"),
        ("B46", "smallest", "INT64", "-9223372036854775808"),
        ("B47", "largest", "UINT64", "18446744073709551615"),
        ("B47", "minus-zero-32", "FP32", "-0.0"),
        ("B47", "minus-zero-64", "FP64", "-0.0"),
    ]
] + [
    good(
        f"B47-denormal-{kind}",
        literal(text, kind),
        model=f"echo_{kind.lower()}",
        holds=lambda answer, text=text: answer.outputs() == {"OUTPUT0": [float(text)]},
    )
    for kind, text in [("FP32", "1e-45"), ("FP64", "5e-324")]
]

TOO_LARGE = [
    bad(f"B47-{text}-in-{kind}", literal(text, kind), model=f"echo_{kind.lower()}")
    for kind, text in [
        ("UINT64", "18446744073709551616"),
        ("INT64", "9223372036854775808"),
        ("FP32", "1e39"),
        ("FP32", "-3.5e38"),
        ("FP64", "1e309"),
    ]
]


def bytes_back(name: str, element: bytes) -> Case:
    """A binary string that the server must return unchanged."""
    data = strings(element)
    head = request(
        binary_tensor(len(data), datatype="BYTES", shape=[1, 1]),
        parameters={"binary_data_output": True},
    )
    back = binary(head, data)
    return Case(
        name, 200, model="echo_bytes", **back, holds=lambda answer: answer.body.endswith(data)
    )


STRINGS = [
    bytes_back("B48-invalid-utf8", b"\xff\xfe\xc0"),
    bytes_back("B48-embedded-nul", b"a\0b"),
    bytes_back("B48-a-megabyte", b"x" * MEBI),
    good(
        "B48-embedded-nul-in-json",
        values("a\0b", datatype="BYTES"),
        model="echo_bytes",
        holds=lambda answer: answer.outputs() == {"OUTPUT0": ["a\0b"]},
    ),
    bad(
        "B48-over-the-element-limit",
        values("x" * (17 * MEBI), datatype="BYTES"),
        model="echo_bytes",
    ),
    bad(
        "B48-invalid-utf8-asked-for-as-json",
        **binary(request(binary_tensor(5, datatype="BYTES", shape=[1, 1])), strings(b"\xff")),
        model="echo_bytes",
    ),
]

CASES: list[Case] = [
    *LISTS,
    *NAMES,
    *DATATYPES,
    *SHAPES,
    *DIMENSIONS,
    *OVERFLOWS,
    *EMPTY,
    *BATCHES,
    *COUNTS,
    *NESTING,
    *ELEMENTS,
    *EXACT,
    *TOO_LARGE,
    *STRINGS,
]
