"""ExampleGen for spans of examples that are tf.Examples already: links the files instead of rewriting them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components import FileBasedExampleGen
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from tfx_pipeline.spans import SPLITS, read_manifest


class _Executor(base_beam_executor.BaseBeamExecutor):
    """A Beam executor by type, as FileBasedExampleGen wants one, that needs no Beam pipeline."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        examples = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples.span = exec_properties["span"]  # the driver sets a custom property; StatisticsGen looks at this one
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        base = Path(exec_properties[standard_component_specs.INPUT_BASE_KEY])
        span = base / f"Span-{examples.span}"
        manifest = read_manifest(span)
        config = example_gen_pb2.Input()
        proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config)
        for split in config.splits:
            sources = sorted(base.glob(split.pattern))
            require_records(sources, manifest[split.name])
            target = Path(artifact_utils.get_split_uri([examples], split.name))
            target.mkdir(parents=True, exist_ok=True)
            for source in sources:
                link_or_copy(source, target / source.name)
        for source in (base / "schema.json", span / "manifest.json"):
            shutil.copyfile(source, Path(examples.uri) / source.name)


class SpanExampleGen(FileBasedExampleGen):
    """Takes one span of a folder of examples: `Span-<N>/{train,eval}/*` and `Span-<N>/manifest.json`.

    Spans are resolved by TFX's own driver: the artifact carries the span's number and the files' fingerprint, so that
    an unchanged span comes from the cache. The files become hard links in the artifact, or copies where the artifact
    is on another file system. They must not be changed in place afterwards; replacing them by renaming is fine.

    Args:
        input_base: Folder with `schema.json` and the spans.
        span: Which span; the latest one if None.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(_Executor)

    def __init__(self, input_base: str, span: int | None = None) -> None:
        splits = [example_gen_pb2.Input.Split(name=name, pattern=f"Span-{{SPAN}}/{name}/*.tfrecord") for name in SPLITS]
        static = range_config_pb2.StaticRange(start_span_number=span, end_span_number=span)
        super().__init__(
            input_base=input_base,
            input_config=example_gen_pb2.Input(splits=splits),
            range_config=None if span is None else range_config_pb2.RangeConfig(static_range=static),
        )


def require_records(files: Sequence[Path], expected: int) -> None:
    """Reads the frames of TFRecord files with their checksums.

    Raises:
        ValueError: If a file is damaged, or the files don't hold `expected` records together.
    """
    found = 0
    for path in files:
        try:
            found += sum(len(block) for block in tf.data.TFRecordDataset(str(path)).batch(4096))
        except tf.errors.DataLossError as error:
            raise ValueError(f"{path} is damaged: {error.message}; write its span again") from error
    if found != expected:
        raise ValueError(
            f"{files[0].parent} holds {found} examples and its manifest says {expected}; write its span again"
        )


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
