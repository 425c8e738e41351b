"""Writes the public protos of TensorFlow Serving's Predict, as descriptors, for protoc: the stubs in any language.

They come from the packages as published: `pip install tensorflow-serving-api==2.19.1`. With the sources of
tensorflow/serving and tensorflow/tensorflow at hand, protoc takes these instead: `-I serving -I tensorflow`.

    python examples/clients/descriptors.py build/tensorflow_serving.desc
"""

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from tensorflow_serving.apis import predict_pb2


def main(path: Path) -> None:
    """Writes a FileDescriptorSet with predict.proto and all that it imports, each file behind its own imports."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = file

    add(predict_pb2.DESCRIPTOR)
    descriptors = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(descriptors.file.add())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(descriptors.SerializeToString())
    print(*files, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
