"""Resolves the model that is served: the latest one that was blessed and pushed."""

from tfx import types
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy

MODEL_ID_PROPERTY = "model_id"
"""Custom property of a PushedModel artifact: the id of the Model artifact that was pushed."""


class LatestPushedModelStrategy(LatestBlessedModelStrategy):
    """LatestBlessedModelStrategy among the models that reached the model server.

    A run that was killed after the evaluation and before the push leaves a blessed model that nobody was served by.
    As a baseline it would hide the one that serves; the next run pushes it instead (its training and its evaluation
    come from the cache).

    Resolves the channels `model`, `model_blessing` and `pushed_model`; all are empty where nothing was pushed yet.
    """

    def resolve_artifacts(self, store, input_dict: dict[str, list[types.Artifact]]) -> dict[str, list[types.Artifact]]:
        nothing: dict[str, list[types.Artifact]] = {key: [] for key in input_dict}
        pushed = {
            artifact.get_int_custom_property(MODEL_ID_PROPERTY): artifact
            for artifact in sorted(input_dict["pushed_model"], key=lambda artifact: artifact.id)
            if artifact.get_int_custom_property("pushed") == 1
        }
        models = [artifact for artifact in input_dict["model"] if artifact.id in pushed]
        if not models or not input_dict["model_blessing"]:
            return nothing
        resolved = super().resolve_artifacts(store, {"model": models, "model_blessing": input_dict["model_blessing"]})
        if not resolved or not resolved["model"]:
            return nothing
        return {**resolved, "pushed_model": [pushed[resolved["model"][0].id]]}
