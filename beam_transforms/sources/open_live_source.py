"""Opens a live source by its location."""

from pathlib import Path

from beam_transforms.sources.followed_directory import FollowedDirectory
from beam_transforms.sources.kafka_topic import KafkaTopic
from beam_transforms.sources.live_source import LiveSource
from beam_transforms.sources.replay import END_NAME
from beam_transforms.sources.stream_clock import StreamClock


def open_live_source(
    location: str, group_id: str, embedding_width: int | None = None
) -> tuple[LiveSource, StreamClock]:
    """The source at a folder that is followed, or `kafka://host:port/topic`, and the clock that its events go by.

    Args:
        location: The folder, or the topic's address.
        group_id: Under which name Kafka keeps how far reading has come, for monitoring alone.
        embedding_width: Numbers in a segment's embedding; None takes any.

    Raises:
        ValueError: If the location is neither.
    """
    if "://" not in location:
        folder = Path(location)
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; make it before it is followed")
        clock = StreamClock(folder)
        return FollowedDirectory(folder, embedding_width, clock=clock.event_now_s, end_name=END_NAME), clock
    return KafkaTopic.at(location, embedding_width, group_id), StreamClock()
