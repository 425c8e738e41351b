import pytest

from beam_transforms.sources.followed_directory import FollowedDirectory
from beam_transforms.sources.kafka_topic import KafkaTopic
from beam_transforms.sources.open_live_source import open_live_source


def test_a_folder_is_followed_and_a_topic_read(tmp_path):
    folder, _ = open_live_source(str(tmp_path), "group")
    assert isinstance(folder, FollowedDirectory) and (folder.folder, folder.end_name) == (tmp_path, "END")
    topic, clock = open_live_source("kafka://here:9092,there:9092/live/", "group", 4)
    assert isinstance(topic, KafkaTopic)
    assert (topic.bootstrap_servers, topic.topic, topic.group_id) == ("here:9092,there:9092", "live", "group")
    assert (topic.embedding_width, clock.happened_s(5000)) == (4, 5)


@pytest.mark.parametrize("location", ["none", "kafka://here", "kafka:///live", "kafka://here/a/b", "redis://here/live"])
def test_anything_else_is_refused(location):
    with pytest.raises(ValueError, match=r"is not a folder|not a Kafka topic; give kafka://host:port"):
        open_live_source(location, "group")
