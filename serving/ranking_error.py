"""RankingError: why there is no ranked answer."""


class RankingError(RuntimeError):
    """A request for a ranking or a prediction failed; the message says what to do.

    Attributes:
        code: Name of the gRPC status code that fits, e.g. "UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND" (no such
            model, version, user or room), "INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL" (the model's answer
            can't be used).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
