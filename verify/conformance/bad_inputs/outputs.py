"""B59 to B62: requested outputs and parameters."""

import math

from .case import Case, bad, binary, binary_tensor, floats, good, request, tensor

ALL = {"OUTPUT0": [1.0, 2.0]}


def asking(*names: object) -> dict:
    return request(outputs=[{"name": name} for name in names])


def with_parameters(**parameters) -> dict:
    return request(parameters=parameters)


OUTPUTS = [
    good("B59-none-listed", request(outputs=[]), holds=lambda answer: answer.outputs() == ALL),
    good("B59-null", request(outputs=None), holds=lambda answer: answer.outputs() == ALL),
    bad("B59-unknown", asking("OUTPUT9")),
    bad("B59-duplicate", asking("OUTPUT0", "OUTPUT0")),
    bad("B59-name-number", asking(0)),
    bad("B59-name-missing", request(outputs=[{}])),
    bad("B59-not-objects", request(outputs=["OUTPUT0"])),
    bad("B59-object", request(outputs={"name": "OUTPUT0"})),
    bad("B59-1000000-entries", asking(*["OUTPUT0"] * 1_000_000)),
    bad("B59-1000000-other-entries", asking(*range(1_000_000))),
]

SPECIAL = floats(math.nan, 1.5, math.inf, -math.inf)


def has_nulls(answer) -> bool:
    (output,) = answer.json()["outputs"]
    return output["data"] == [None, 1.5, None, None] and output["parameters"] == {"non_finite": 3}


NON_FINITE = [
    good(
        "B60-non-finite-asked-for-as-json",
        **binary(request(binary_tensor(16, shape=[1, 4])), SPECIAL),
        holds=has_nulls,
    )
]

PARAMETERS = [
    bad(f"B61-{name}", body)
    for name, body in [
        ("array-value", with_parameters(tenant=["a"])),
        ("object-value", with_parameters(tenant={"a": 1})),
        ("not-an-object", request(parameters=["timeout"])),
        ("10000-keys", with_parameters(**{f"p{n}": n for n in range(10_000)})),
        ("timeout-negative", with_parameters(timeout=-1)),
        ("timeout-fraction", with_parameters(timeout=1.5)),
        ("timeout-1e18", with_parameters(timeout=1e18)),
        ("timeout-text", with_parameters(timeout="5")),
        ("timeout-over-u64", with_parameters(timeout=2**64)),
        ("priority-negative", with_parameters(priority=-1)),
        ("priority-text", with_parameters(priority="high")),
        ("binary-data-output-text", with_parameters(binary_data_output="yes")),
        ("reserved-name", with_parameters(triton_x=1)),
        ("of-input-array-value", request(tensor(parameters={"a": [1]}))),
    ]
] + [
    good("B61-timeout-0-for-none", with_parameters(timeout=0)),
    good("B61-timeout-above-the-most", with_parameters(timeout=10**18)),
    good("B61-priority-0", with_parameters(priority=0)),
]

SHARED_MEMORY = {"shared_memory_region": "r", "shared_memory_byte_size": 8}

ELSEWHERE = [
    bad(f"B62-{name}", body, "unsupported")
    for name, body in [
        ("shared-memory-input", request(tensor(data=..., parameters=SHARED_MEMORY))),
        ("shared-memory-and-data", request(tensor(parameters=SHARED_MEMORY))),
        (
            "shared-memory-output",
            request(outputs=[{"name": "OUTPUT0", "parameters": SHARED_MEMORY}]),
        ),
        ("file-input", request(tensor(data=..., parameters={"file": "/etc/passwd"}))),
        ("url-input", request(tensor(data=..., parameters={"url": "http://127.0.0.1/"}))),
        ("file-of-request", with_parameters(file="/etc/passwd")),
        ("url-of-request", with_parameters(url="http://127.0.0.1/")),
    ]
]

CASES: list[Case] = [*OUTPUTS, *NON_FINITE, *PARAMETERS, *ELSEWHERE]
