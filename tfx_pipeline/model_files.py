"""Names of the files that a trained model carries beside its graph, in `assets.extra`."""

EXTRA_FOLDER = "assets.extra"
WEIGHTS_FILE = "model.weights.h5"
"""Keras weights: what the next training starts from."""
RANKER_FILE = "ranker.json"
"""The RankerConfig that the weights belong to."""
TRAINING_FILE = "training.json"
"""What the training says about the model, such as `forecast_mse`."""
