"""The layers: Keras 3, any backend, one class a module."""

from keras_models.layers.causal_transformer import CausalTransformer
from keras_models.layers.factorization_machine import FactorizationMachine
from keras_models.layers.grouped_dense import GroupedDense
from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.layers.inverted_transformer import InvertedTransformer
from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts
from keras_models.layers.nearest_code import NearestCode
from keras_models.layers.progressive_layered_extraction import ProgressiveLayeredExtraction
from keras_models.layers.reversible_instance_normalization import ReversibleInstanceNormalization
from keras_models.layers.run_length_embedding import RunLengthEmbedding
from keras_models.layers.running_normalization import RunningNormalization
from keras_models.layers.semantic_id_decoder import SemanticIdDecoder
from keras_models.layers.semantic_id_encoder import SemanticIdEncoder
from keras_models.layers.soft_buckets import SoftBuckets
from keras_models.layers.target_attention import TargetAttention

__all__ = [
    "CausalTransformer",
    "FactorizationMachine",
    "GroupedDense",
    "HashedEmbedding",
    "InvertedTransformer",
    "MultiGateMixtureOfExperts",
    "NearestCode",
    "ProgressiveLayeredExtraction",
    "ReversibleInstanceNormalization",
    "RunLengthEmbedding",
    "RunningNormalization",
    "SemanticIdDecoder",
    "SemanticIdEncoder",
    "SoftBuckets",
    "TargetAttention",
]
