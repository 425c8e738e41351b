"""Compiles serving_api.proto: `python -m serving.protos.compile [FOLDER]`. Needs grpcio-tools."""

import sys
from pathlib import Path

PROTO = "serving/protos/serving_api.proto"
"""Path of the messages, relative to the repository."""


def compile_protos(output: Path) -> None:
    """Writes `serving_api_pb2.py` and its type stub to `output`/serving/protos.

    Raises:
        RuntimeError: The compiler failed; it has written the reason to stderr.
    """
    import grpc_tools
    from grpc_tools import protoc

    root = Path(__file__).resolve().parents[2]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={output}", f"--pyi_out={output}", PROTO]
    if status := protoc.main(arguments):
        raise RuntimeError(f"protoc ended with status {status} on {root / PROTO}; its message stands above")


if __name__ == "__main__":
    compile_protos(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
