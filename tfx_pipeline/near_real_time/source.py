"""What `foresight stream` is told in words, as the objects that the loop is made of."""

from pathlib import Path
from urllib.parse import urlsplit

from apache_beam.io.unbounded_source import UnboundedSource

from beam_transforms.fast_slow import FastSlow
from beam_transforms.first_only import FirstOnly
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.schema import RankingSchema
from beam_transforms.sliver import Sliver
from beam_transforms.sources.followed_directory import FollowedDirectory
from beam_transforms.sources.kafka_topic import KafkaTopic
from beam_transforms.sources.replay import END_NAME
from keras_models.ranker_config import RankerConfig
from tfx_pipeline.near_real_time.clock import StreamClock
from tfx_pipeline.near_real_time.config import StreamConfig

_POLICIES = {"first_only": FirstOnly, "sliver": Sliver, "fast_window": FastWindow, "fast_slow": FastSlow}
_HORIZON = {"horizon_s": 300.0}
"""What the pipeline's labels, those of FastWindow, wait for. With an hour, the policies' default, only positives are
known in the first hour of a stream, and negatives come from another hour than positives for ever after."""
_DEFAULTS = {"first_only": _HORIZON, "sliver": _HORIZON}
_KAFKA = "kafka"


def live_source(location: str, embedding_width: int | None) -> tuple[UnboundedSource, StreamClock]:
    """The source at a folder or `kafka://host:port/topic`, and the clock that its events go by.

    Raises:
        ValueError: If the location is neither.
    """
    if "://" not in location:
        folder = Path(location)
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; make it before it is followed")
        clock = StreamClock(folder)
        return FollowedDirectory(folder, embedding_width, clock=clock.event_now_s, end_name=END_NAME), clock
    parts = urlsplit(location)
    topic = parts.path.strip("/")
    if parts.scheme != _KAFKA or not parts.netloc or not topic or "/" in topic or parts.query or parts.fragment:
        raise ValueError(f"{location}: not a source of events; give a folder or kafka://host:port/topic")
    return KafkaTopic(parts.netloc, topic, embedding_width, group_id="foresight-stream"), StreamClock()


def label_policy(config: StreamConfig) -> LabelPolicy:
    """The policy that the configuration names.

    Raises:
        ValueError: If the policy doesn't take its options.
    """
    try:
        return _POLICIES[config.policy](**{**_DEFAULTS.get(config.policy, {}), **config.policy_options})
    except TypeError as error:
        raise ValueError(f"policy_options: {error}") from error


def require_schema(config: RankerConfig, schema: RankingSchema, where: str) -> None:
    """Raises a ValueError that says what differs unless a ranker takes and gives what the schema says."""
    features = {feature.name: (feature.dtype, feature.shape) for feature in schema.inputs}
    differing = [
        f"its input {name!r} is {dtype} {shape}, in the schema {features.get(name, 'missing')}"
        for name, (dtype, shape) in config.input_shapes.items()
        if features.get(name) != (dtype, shape)
    ]
    if config.tasks != schema.task_names:
        differing.append(f"its tasks are {config.tasks}, in the schema {schema.task_names}")
    if differing:
        raise ValueError(f"{where} doesn't fit schema {schema.name!r}: {'; '.join(differing)}")
