"""KServe's model server for Python. It does not batch: on Kubernetes an agent beside it batches HTTP only."""

import logging
import os

import kserve
from digits import CLASSES, INPUT, MODEL, OUTPUT, PIXELS
from engine import recognise, session
from kserve import InferOutput, InferRequest, InferResponse


class Digits(kserve.Model):
    def __init__(self) -> None:
        super().__init__(MODEL)
        self.session = session()
        self.ready = True

    def get_input_types(self) -> list[dict]:
        return [{"name": INPUT, "datatype": "FP32", "shape": [-1, PIXELS]}]

    def get_output_types(self) -> list[dict]:
        return [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, CLASSES]}]

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        probabilities = recognise(self.session, payload.inputs[0].as_numpy())
        output = InferOutput(name=OUTPUT, shape=list(probabilities.shape), datatype="FP32")
        output.set_data_from_numpy(probabilities, binary_data=True)
        return InferResponse(
            response_id=payload.id, model_name=self.name, infer_outputs=[output], use_binary_outputs=True
        )


def main() -> None:
    http, grpc = int(os.environ["HTTP_PORT"]), int(os.environ["GRPC_PORT"])
    server = kserve.ModelServer(http_port=http, grpc_port=grpc, workers=1, enable_latency_logging=False)
    # A line for each request would cost more than the request.
    for name in ("uvicorn.access", "kserve", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([Digits()])


if __name__ == "__main__":
    main()
