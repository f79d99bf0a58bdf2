"""The models of the suite: echoes, and the real models of `make models`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / ".cache" / "models"
DIGITS = ROOT / ".cache" / "digits_test.csv"

DATATYPES = [
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]

MAX_BATCH = 64

Tensors = list[tuple[str, str]]  # datatype and dimensions of each


def write(repository: Path) -> list[str]:
    """Fills a model repository. Returns the names of its models."""
    write_echoes(repository)
    for real in ("digits_wide", "magika"):
        if not (MODELS / real).is_dir() or not DIGITS.is_file():
            raise FileNotFoundError(f"{MODELS / real} or {DIGITS} is missing: run `make models`")
        (repository / real).symlink_to(MODELS / real)
    return names(repository)


def write_echoes(repository: Path) -> list[str]:
    """Fills a model repository with echoes, which need no ONNX Runtime."""
    for datatype in DATATYPES:
        echo(repository / f"echo_{datatype.lower()}", [(datatype, "-1")])
    echo(repository / "two_inputs", [("FP32", "-1"), ("INT32", "-1")])
    echo(repository / "fixed", [("FP32", "4")], max_batch=4)
    echo(repository / "unbatched", [("BOOL", "-1")], max_batch=0)
    echo(repository / "slow", [("FP32", "-1")], more=parameter("batch_ms", 150))
    versioned = echo(
        repository / "versioned", [("FP32", "-1")], more="version_policy: { all {} }\n"
    )
    for version in ("1", "3"):
        (versioned / version).mkdir()
    return names(repository)


def names(repository: Path) -> list[str]:
    return sorted(folder.name for folder in repository.iterdir())


def echo(model: Path, tensors: Tensors, max_batch: int = MAX_BATCH, more: str = "") -> Path:
    """Writes the config of a model that returns its inputs unchanged."""
    model.mkdir()
    config = f'backend: "batchfleet_echo"\nmax_batch_size: {max_batch}\n{more}'
    for at, (datatype, dims) in enumerate(tensors):
        kind = datatype.replace("BYTES", "STRING")
        for side in ("input", "output"):
            config += (
                f'{side} [ {{ name: "{side.upper()}{at}" '
                f"data_type: TYPE_{kind} dims: [ {dims} ] }} ]\n"
            )
    (model / "config.pbtxt").write_text(config)
    return model


def parameter(key: str, value: object) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
