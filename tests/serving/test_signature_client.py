import subprocess
import sys

import pytest

from serving.protos import model_metadata_pb2 as metadata
from serving.ranking_error import RankingError
from serving.signature_client import Signature, SignatureClient
from tests.beam_transforms.stored_tables import ROOT
from tests.serving.fake_model_server import FakeModelServer


def test_signatures_are_read_by_name():
    server = FakeModelServer()
    server.sizes = {3: 7}
    try:
        with SignatureClient(server.address) as client:
            found = client.signatures("ranker", 3)
            with pytest.raises(RankingError, match="NOT_FOUND: Servable not found"):
                client.signatures("ranker", 4)
    finally:
        server.server.stop(None)
    assert set(found) == {"rank", "forecast"} and found["rank"] == Signature({}, {})
    assert set(found["forecast"].inputs) == {"statistic_sequence", "statistic_mask"}
    assert found["forecast"].outputs == {"foresight": (-1, 7)}


def test_signatures_of_a_real_server(served, place, tmp_path):
    """The bytes are those of TensorFlow Serving's own messages."""
    place(tmp_path / "signatures", 3, 0.5)
    served.serve("signatures", tmp_path / "signatures").close()
    served.wait("signatures", 3)
    with SignatureClient(served.running.address) as client:
        signature = client.signatures("signatures", 3)["serving_default"]
    assert signature.inputs == {"user_id": (-1,), "context": (-1, 3)}
    assert set(signature.outputs) == {"ctr", "gtr"}


def test_messages_have_the_fields_of_tensorflow_servings():
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2 as original

    for ours, theirs in (
        (metadata.GetModelMetadataRequest, original.GetModelMetadataRequest),
        (metadata.GetModelMetadataResponse, original.GetModelMetadataResponse),
        (metadata.SignatureDefMap, original.SignatureDefMap),
        (metadata.SignatureDef, meta_graph_pb2.SignatureDef),
        (metadata.TensorInfo, meta_graph_pb2.TensorInfo),
    ):
        for field in ours.DESCRIPTOR.fields:
            same = theirs.DESCRIPTOR.fields_by_number[field.number]
            assert (field.name, field.is_repeated) == (same.name, same.is_repeated)
            assert field.type == same.type or {field.type, same.type} == {field.TYPE_ENUM, field.TYPE_INT32}


def test_checked_in_code_is_what_the_compiler_makes(tmp_path):
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools; run `make setup`, then `make test`")
    subprocess.run([sys.executable, "-m", "serving.protos.compile", str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    for name in ("model_metadata_pb2.py", "model_metadata_pb2.pyi"):
        made = (tmp_path / "serving/protos" / name).read_text()
        assert made == (ROOT / "serving/protos" / name).read_text(), f"run python -m serving.protos.compile for {name}"
