"""Spans of synthetic examples."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from beam_transforms.schema import LIVE_SCHEMA, RankingSchema, schema_to_json
from tests.tfx_pipeline.synthetic_examples import example_columns, write_examples


@pytest.fixture(scope="session")
def small_schema() -> RankingSchema:
    """The live schema with short sequences and three tasks, so that thousands of examples are cheap."""
    return dataclasses.replace(
        LIVE_SCHEMA, sequence_length=12, entered_authors_length=4, tasks=LIVE_SCHEMA.tasks[:2] + LIVE_SCHEMA.tasks[3:4]
    )


@pytest.fixture(scope="session")
def write_span(small_schema) -> Callable[..., Path]:
    """`write_span(folder, span, rows=..., seed=..., shuffle_labels=..., changed=...)` writes Span-<span> and schema."""

    def write(
        folder: Path,
        span: int,
        *,
        rows: int = 3000,
        seed: int = 0,
        shuffle_labels: bool = False,
        changed: Callable[[dict[str, np.ndarray]], None] | None = None,
        schema: RankingSchema = small_schema,
    ) -> Path:
        columns = example_columns(schema, span, rows, np.random.default_rng(seed))
        if shuffle_labels:
            columns["label"] = np.random.default_rng(seed + 1).permutation(columns["label"])
        if changed is not None:
            changed(columns)
        target = folder / f"Span-{span}"
        cut = rows * 3 // 4
        for split, part in (("train", slice(0, cut)), ("eval", slice(cut, rows))):
            write_examples(target / split / "examples-00000-of-00001.tfrecord", columns, part)
        (folder / "schema.json").write_text(json.dumps(schema_to_json(schema)))
        newest = int(columns["timestamp_ms"].max())
        manifest = {"span": span, "newest_event_ms": newest, "train": cut, "eval": rows - cut}
        (target / "manifest.json").write_text(json.dumps(manifest))
        return target

    return write
