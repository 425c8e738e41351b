"""ServingError: an error as TensorFlow Serving reports it."""

import grpc

_MAX_DETAILS_BYTES = 2000


class ServingError(Exception):
    """A request failed with one of gRPC's status codes and a message for the caller."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> ServingError:
    """The most frequent kind: the request itself is wrong."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def details(error: ServingError) -> str:
    """The message as a gRPC status may carry it."""
    # Details travel percent-encoded in a header, and gRPC refuses headers of more than 8 KB.
    return error.message.encode()[:_MAX_DETAILS_BYTES].decode(errors="ignore")
