"""The examples of the book run as printed, except for the addresses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CLIENTS, LAPTOP = DOCS / "guides/clients.md", DOCS / "start/laptop.md"
README = DOCS.parent / "README.md"
# How a block of a language is run; the block is the standard input.
RUNNERS = {"python": [sys.executable, "-"], "js": ["node", "--input-type=module", "-"], "": ["bash", "-e"]}


def blocks(page: Path, language: str, word: str) -> list[str]:
    """The blocks of a page in a language that contain a word."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in found if word in block]


@pytest.fixture
def output(address, grpc_address):
    """What the only block of a page in a language, with a word in it, prints."""

    def run(page: Path, language: str, word: str) -> str:
        (block,) = blocks(page, language, word)
        block = block.replace("127.0.0.1:8080", address).replace("127.0.0.1:8001", grpc_address)
        done = subprocess.run(RUNNERS[language], input=block, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(("page", "language", "word"), [
    (CLIENTS, "python", "tritonclient.http"), (CLIENTS, "python", "tritonclient.grpc"),
    (CLIENTS, "js", "fetch"), (README, "python", "tritonclient.grpc")])
def test_a_client_prints_ten_probabilities(output, page, language, word):
    numbers = [float(number) for number in re.findall(r"\d[\d.e+-]*", output(page, language, word))]
    assert len(numbers) == 10 and sum(numbers) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("page", [LAPTOP, README])
def test_curl_recognises_the_handwritten_three(output, page):
    (probabilities,) = [tensor for tensor in json.loads(output(page, "", "/infer"))["outputs"]
                        if tensor["name"] == "probabilities"]
    assert max(range(10), key=probabilities["data"].__getitem__) == 3


def test_curl_shows_what_a_gateway_serves(output):
    decoder, text, answers = json.JSONDecoder(), output(CLIENTS, "", "/batching"), []
    while text := text.strip():
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:]
    metadata, index, batching, interface = answers
    assert metadata["name"] == "digits_wide" and "digits_wide" in {model["name"] for model in index}
    assert batching["why"] and "/v2/models/{model}/infer" in str(interface["paths"].keys())
