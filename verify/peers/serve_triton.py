"""Triton's server with its dynamic batcher, through pytriton."""

import os

import numpy as np
from digits import CLASSES, INPUT, MODEL, MOST_ROWS, OUTPUT, PIXELS
from engine import recognise, session
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

loaded = session()


@batch
def infer(**inputs: np.ndarray) -> list[np.ndarray]:
    return [recognise(loaded, inputs[INPUT])]


def main() -> None:
    http, grpc, metrics = (int(os.environ[name]) for name in ("HTTP_PORT", "GRPC_PORT", "ADMIN_PORT"))
    config = TritonConfig(
        http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=infer,
            inputs=[Tensor(name=INPUT, dtype=np.float32, shape=(PIXELS,))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(CLASSES,))],
            # Without a delay, which would make few connections slower and many hardly faster.
            config=ModelConfig(max_batch_size=MOST_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
