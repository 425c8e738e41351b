"""Compiles the protos of this folder: `python -m serving.protos.compile [FOLDER]`. Needs grpcio-tools."""

import sys
from pathlib import Path

PROTOS = (
    "serving/protos/serving_api.proto",
    "serving/protos/server_config.proto",
    "serving/protos/model_metadata.proto",
)
"""Paths of the messages, relative to the repository."""


def compile_protos(output: Path) -> None:
    """Writes `*_pb2.py` and their type stubs to `output`/serving/protos.

    Raises:
        RuntimeError: The compiler failed; it has written the reason to stderr.
    """
    import grpc_tools
    from grpc_tools import protoc

    root = Path(__file__).resolve().parents[2]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={output}", f"--pyi_out={output}", *PROTOS]
    if status := protoc.main(arguments):
        raise RuntimeError(f"protoc ended with status {status} on {list(PROTOS)}; its message stands above")


if __name__ == "__main__":
    compile_protos(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
