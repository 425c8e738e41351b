"""The requests that a model server answers before it lets a new version have real ones."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from beam_transforms.schema import RankingSchema
from keras_models.ranker_config import RankerConfig
from serving.tensors import predict_request
from tfx_pipeline.example_dataset import parse
from tfx_pipeline.file_names import EXTRA_FOLDER, RANKER_FILE


def warmup_requests(
    model: Path, model_name: str, files: Sequence[str], schema: RankingSchema, rows: int
) -> list[bytes]:
    """One serialized PredictRequest for each signature of an exported ranker.

    Args:
        model: SavedModel with its RankerConfig beside it.
        model_name: Name under which it is served.
        files: TFRecord files; the first examples become the requests.
        schema: What the examples hold.
        rows: Examples a request.
    """
    config = RankerConfig.from_dict(json.loads((model / EXTRA_FOLDER / RANKER_FILE).read_text()))
    records = next(iter(tf.data.TFRecordDataset(list(files)).batch(rows)))
    columns = {name: tensor.numpy() for name, tensor in parse(records, schema).items()}
    columns["foresight"] = np.zeros((len(records), config.foresight_size), np.float32)
    inputs = {
        "serving_default": {name: columns[name] for name in config.input_shapes},
        "serving_examples": {"examples": records.numpy()},
        "rank": {name: columns[name] for name in config.rank_shapes},
    }
    if config.foresight_size:
        inputs["forecast"] = {name: columns[name] for name in config.room_shapes}
    return [
        predict_request(model_name, arrays, signature_name=signature).SerializeToString()
        for signature, arrays in inputs.items()
    ]
