"""UnusableStoreError: an online store was reached, but what it holds can't be used."""


class UnusableStoreError(OSError, ValueError):
    """The store is empty, damaged, or holds other features than its reader needs; the message says what to do.

    An OSError, as it isn't the request's fault; an unknown room is a plain ValueError.
    """
