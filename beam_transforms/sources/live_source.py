"""What live sources have in common."""

import abc

from apache_beam.io.unbounded_source import UnboundedSource


class LiveSource(UnboundedSource, abc.ABC):
    """Live events that go on: `FollowedDirectory` and `KafkaTopic`."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """What is read, in words: a mark's file names or offsets mean nothing at another place."""
