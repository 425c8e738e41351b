"""Names of the files by which the components hand over to each other."""

EVALUATION_FILE = "evaluation.json"
"""In an evaluation: figures, decision and reasons."""
PREDICTIONS_FILE = "predictions.parquet"
"""In an evaluation: each eval impression with labels and scores."""

EXTRA_FOLDER = "assets.extra"
"""In a SavedModel: what TensorFlow Serving doesn't look at, apart from the warm-up requests."""
WEIGHTS_FILE = "model.weights.h5"
"""In the extra folder: Keras weights, what the next training starts from."""
RANKER_FILE = "ranker.json"
"""In the extra folder: the RankerConfig that the weights belong to."""
TRAINING_FILE = "training.json"
"""In the extra folder: what the training says about the model, such as `forecast_mse`."""

FORECAST_FIGURES = ("forecast_mse", "semantic_id_hits", "product_hits")
"""What the training file and the evaluation say of the forecasters, see `forecast_accuracy`."""
