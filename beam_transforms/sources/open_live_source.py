"""Opens a live source by its location."""

from pathlib import Path
from urllib.parse import urlsplit

from apache_beam.io.unbounded_source import UnboundedSource

from beam_transforms.sources.followed_directory import FollowedDirectory
from beam_transforms.sources.kafka_topic import KafkaTopic
from beam_transforms.sources.replay import END_NAME


def open_live_source(location: str, group_id: str) -> UnboundedSource:
    """The source at a folder that is followed, or `kafka://host:port/topic`.

    Args:
        location: The folder, or the topic's address.
        group_id: Under which name Kafka keeps how far reading has come, for monitoring alone.

    Raises:
        ValueError: If the location is neither.
    """
    if "://" not in location:
        if not Path(location).is_dir():
            raise ValueError(f"{location} is not a folder; make it before it is followed")
        return FollowedDirectory(Path(location), end_name=END_NAME)
    parts = urlsplit(location)
    topic = parts.path.strip("/")
    if parts.scheme != "kafka" or not parts.netloc or not topic or "/" in topic or parts.query or parts.fragment:
        raise ValueError(f"{location}: not a source of events; give a folder or kafka://host:port/topic")
    return KafkaTopic(parts.netloc, topic, group_id=group_id)
