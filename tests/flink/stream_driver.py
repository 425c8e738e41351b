"""Submits the streaming pipeline on a Kafka topic to a runner.

Run by the tests as a program: its process holds the LOOPBACK workers.
"""

import argparse
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_transforms.events import register_coders
from beam_transforms.labels import FastWindow
from beam_transforms.spans import SpanPlan
from beam_transforms.streaming import build_stream
from tests.beam_transforms.live_logs import CODEBOOK, WIDTH
from tests.flink.hot_room_log import LATENESS_MS, STREAM_SCHEMA
from tests.flink.read_topic import ReadTopic

PLAN = SpanPlan(600_000)
POLICY = FastWindow(60)
SHARDS = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--kafka_expansion_service", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    known, options = parser.parse_known_args()
    register_coders()
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    build_stream(
        pipeline,
        ReadTopic(known.brokers, known.topic, known.kafka_expansion_service, WIDTH),
        known.output,
        STREAM_SCHEMA,
        PLAN,
        POLICY,
        CODEBOOK,
        known.store,
        LATENESS_MS,
        SHARDS,
    )
    pipeline.run().wait_until_finish()


if __name__ == "__main__":
    main()
