"""curl, as the README shows it."""

import json
import subprocess

import numpy as np
import pytest

REQUEST = json.dumps(
    {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1.5, -2, 3.25]}]}
)


def curl(*arguments: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status and the body of the answer."""
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--write-out",
        "\n%{http_code}",
    ]
    done = subprocess.run([*command, *arguments], input=body, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    body, status = done.stdout.rsplit(b"\n", 1)
    return int(status), body


@pytest.mark.parametrize(
    "how",
    [
        ["--json", REQUEST],
        ["-d", REQUEST],
        ["--header", "content-type: application/json", "--data", REQUEST],
        ["--header", "Content-Type: application/json; charset=utf-8", "--data-binary", REQUEST],
        ["--header", "content-type:", "--data", REQUEST],
        ["--header", "transfer-encoding: chunked", "--json", REQUEST],
    ],
    ids=["--json", "-d", "--data", "--data-binary", "no content type", "chunked"],
)
def test_json_in_json_out(address, how):
    status, body = curl(f"http://{address}/v2/models/echo_fp32/infer", *how)
    answer = json.loads(body)
    assert status == 200, body
    assert answer["outputs"] == [
        {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1.5, -2.0, 3.25]}
    ]


@pytest.mark.parametrize("count", [3, 2_000_000])  # large: `Expect: 100-continue`
def test_raw_bytes_in_raw_bytes_out(address, count):
    values = np.arange(count, dtype="<f4").tobytes()
    status, body = curl(
        f"http://{address}/v2/models/echo_fp32/infer",
        *["--header", "Inference-Header-Content-Length: 0"],
        *["--header", "Content-Type: application/octet-stream", "--data-binary", "@-"],
        body=values,
    )
    assert status == 200, body
    assert body.endswith(values)
    assert json.loads(body.removesuffix(values))["outputs"][0]["shape"] == [1, count]


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/health/live", "/v2/health/ready"])
def test_the_server_describes_itself(address, path):
    status, body = curl(f"http://{address}{path}")
    assert status == 200 and json.loads(body)


def test_the_interface_is_described_for_programs(address):
    status, body = curl(f"http://{address}/openapi.json")
    assert status == 200
    document = json.loads(body)
    assert document["openapi"].startswith("3.")
    assert "/v2/models/{model}/infer" in document["paths"]
    for path, methods in document["paths"].items():
        name = path.replace("{model}", "echo_fp32").replace("{version}", "1")
        if "get" in methods:
            assert curl(f"http://{address}{name}")[0] == 200, name


@pytest.mark.parametrize(
    ("path", "how", "status"),
    [
        ("/v2/models/cats/infer", ["--json", REQUEST], 404),
        ("/v2/models/fixed/infer", ["--json", REQUEST], 400),
        ("/v2/models/fixed/infer", [], 405),
        (
            "/v2/models/echo_fp32/infer",
            ["--header", "origin: https://page.example", "--data", REQUEST],
            415,
        ),
        (
            "/v2/models/echo_fp32/infer",
            ["--header", "origin: https://page.example", "--header", "content-type:", "--data", REQUEST],
            415,
        ),
        ("/v2/models/echo_fp32/infer", ["--json", "{"], 400),
        ("/nothing", [], 404),
    ],
)
def test_errors_are_json_with_a_sentence(address, path, how, status):
    received, body = curl(f"http://{address}{path}", *how)
    assert received == status
    assert len(json.loads(body)["error"]) > 10


def test_a_body_over_the_limit_is_refused_readably(address, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((64 << 20) + 1)
    status, body = curl(
        f"http://{address}/v2/models/echo_fp32/infer",
        *["--header", "content-type: application/json", "--data-binary", f"@{large}"],
    )
    assert status == 413
    assert "too_large" in json.loads(body)["error"]
