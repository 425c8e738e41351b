"""Asks a model server for scores: grpcio and protobuf, with messages of our own and no TensorFlow.

    python examples/clients/python/client.py --request build/request.json --address 127.0.0.1:8500

For ranked rooms there is `serving.client.RankingClient`, which reads the features, too; this is what it does below.
"""

import argparse
import json
from pathlib import Path

import grpc
import numpy as np

from serving.protos import serving_api_pb2 as api

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],  # not RESOURCE_EXHAUSTED: the server has too much to do
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},  # few retries, when much fails
}


def tensor(column: list) -> api.TensorProto:
    """A column of rows as tensor_content: a thousand times cheaper than repeated values."""
    array = np.array(column)
    array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
    proto = api.TensorProto(dtype=api.DT_INT64 if array.dtype.kind == "i" else api.DT_FLOAT)
    proto.tensor_shape.dim.extend(api.TensorShapeProto.Dim(size=size) for size in array.shape)
    proto.tensor_content = array.tobytes()
    return proto


def main(arguments: argparse.Namespace) -> None:
    body = json.loads(arguments.request.read_text())
    request = api.PredictRequest()
    request.model_spec.name = arguments.model
    request.model_spec.signature_name = body.get("signature_name", "serving_default")
    if arguments.label:
        request.model_spec.version_label = arguments.label
    for name, column in body["inputs"].items():
        request.inputs[name].CopyFrom(tensor(column))
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    with grpc.insecure_channel(arguments.address, options) as channel:
        predict = channel.unary_unary(
            PREDICT,
            request_serializer=api.PredictRequest.SerializeToString,
            response_deserializer=api.PredictResponse.FromString,
        )
        answer = predict(request, timeout=arguments.deadline)
    output = answer.outputs[arguments.output]
    scores = np.frombuffer(output.tensor_content, "<f4") if output.tensor_content else np.array(output.float_val)
    print(f"version {answer.model_spec.version.value}")
    for row in np.argsort(-scores, kind="stable")[:5]:
        print(f"{row} {scores[row]:.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:8500")
    parser.add_argument("--model", default="live_ranker")
    parser.add_argument("--label", default="", help="of the version to ask; the newest by default")
    parser.add_argument("--output", default="ctr", help="whose scores to print")
    parser.add_argument("--deadline", type=float, default=0.5, help="seconds")
    parser.add_argument("--request", type=Path, default=Path("build/request.json"))
    main(parser.parse_args())
