"""Asks over gRPC with MLServer's own messages and codecs. Runs in MLServer's environment.

Usage: mlserver_grpc.py HOST:PORT
"""

import sys

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc import converters
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest

VALUES = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = GRPCInferenceServiceStub(channel)
    for raw in (True, False):
        request = InferenceRequest(id="7", inputs=[NumpyCodec.encode_input("INPUT0", VALUES)])
        message = converters.ModelInferRequestConverter.from_types(
            request, model_name="echo_fp32", use_raw=raw
        )
        answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(message))
        (output,) = answer.outputs
        assert (answer.model_name, answer.id) == ("echo_fp32", "7"), answer
        assert np.array_equal(NumpyCodec.decode_output(output), VALUES), output
