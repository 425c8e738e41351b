"""PublishError: why a model was not published."""


class PublishError(RuntimeError):
    """A model was not published: nothing of it is visible, and the versions that were there still are."""
