"""What a ranker is built from."""

import dataclasses
from typing import Any

VARIANTS = ("base", "statistic")
"""`base` ranks without foresight; `statistic` adds the statistic forecaster."""


@dataclasses.dataclass(frozen=True)
class RankerConfig:
    """Everything that shapes a `LiveRanker`, in plain types: the same configuration gives the same graph.

    Attributes:
        tasks: Names of the outputs.
        dense_features: Name -> width of the float inputs, whatever their source: user, room or context.
        metrics: N, width of `statistic_sequence`.
        sequence_length: T, steps of `statistic_sequence`.
        horizon: H, steps to forecast.
        entered_authors_length: L, entries of `entered_authors`.
        variant: One of `VARIANTS`.
        user_bins: Rows of the users' table; about twice the number of users keeps most apart.
        author_bins: Rows of the authors' table.
        embedding_dim: Width of an id's vector.
        embedding_dropout: Rate at which a whole id vector is dropped in training: what keeps ids from being learned by
            heart, and what teaches the ranker to answer for users and authors it hasn't seen.
        embedding_stddev: Of the ids' vectors at start.
        affinity_scale: Factor of the dot products between ids' vectors; see `LiveRanker`.
        bucket_steps: Smooth steps into which each dense feature is cut.
        attention_units: Hidden widths of the target attention.
        experts: Number of experts.
        expert_units: Widths of each expert's layers.
        tower_units: Hidden width of each task's tower.
        dropout: Rate of dropout on the towers' inputs.
        initial_logit: Bias of the outputs at start; -3 is a probability of 4.7 %, near the base rates of most tasks.
        model_width: D, the forecaster's width.
        forecaster_layers: The forecaster's encoder layers.
        forecaster_heads: The forecaster's attention heads.
        forecaster_dropout: Rate of dropout in the forecaster; a stream is seen once, so there is little to overfit.
        log1p: Whether the forecaster's encoder sees log(1 + x).
        foresight_units: Width to which the ranker maps the flattened encoding.
    """

    tasks: tuple[str, ...]
    dense_features: dict[str, int]
    metrics: int
    sequence_length: int = 40
    horizon: int = 3
    entered_authors_length: int = 20
    variant: str = "statistic"
    user_bins: int = 50_000
    author_bins: int = 20_000
    embedding_dim: int = 16
    embedding_dropout: float = 0.1
    embedding_stddev: float = 0.02
    affinity_scale: float = 30.0
    bucket_steps: int = 8
    attention_units: tuple[int, ...] = (32,)
    experts: int = 4
    expert_units: tuple[int, ...] = (64, 32)
    tower_units: int = 32
    dropout: float = 0.0
    initial_logit: float = -3.0
    model_width: int = 32
    forecaster_layers: int = 2
    forecaster_heads: int = 4
    forecaster_dropout: float = 0.0
    log1p: bool = False
    foresight_units: int = 16

    def __post_init__(self) -> None:
        # JSON knows lists only: what was written from a tuple is taken back as one.
        for name in ("tasks", "attention_units", "expert_units"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be one or more distinct names, got {self.tasks}")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if not 0 < self.horizon < self.sequence_length:
            raise ValueError(
                f"horizon must lie between 1 and sequence_length - 1 = {self.sequence_length - 1}, got {self.horizon}"
            )
        empty = [name for name, width in self.dense_features.items() if width < 1]
        if empty or not self.dense_features:
            raise ValueError(f"dense_features must be one or more names with widths of at least 1, got {empty or '{}'}")

    @property
    def foresight_size(self) -> int:
        """F, width of the foresight vector: its level part and the encoding (N x D), flattened."""
        return 0 if self.variant == "base" else self.level_size + self.metrics * self.model_width

    @property
    def level_size(self) -> int:
        """Width of what a foresight vector says in raw counts: the forecast (H x N) and the window's level (3 x N)."""
        return self.metrics * (self.horizon + 3)

    @property
    def room_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes without the batch of the float32 inputs of the signature `forecast`."""
        return {
            "statistic_sequence": (self.sequence_length, self.metrics),
            "statistic_mask": (self.sequence_length,),
        }

    @property
    def input_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> dtype and shape without the batch of the inputs of `serving_default`, in the same order always."""
        return {
            "user_id": ("int64", ()),
            "author_id": ("int64", ()),
            "entered_authors": ("int64", (self.entered_authors_length,)),
            **{name: ("float32", shape) for name, shape in self.room_shapes.items()},
            **{name: ("float32", (width,)) for name, width in self.dense_features.items()},
        }

    @property
    def rank_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Like `input_shapes`, for the signature `rank`: the foresight vector stands in for the room's sequences."""
        shapes = {name: entry for name, entry in self.input_shapes.items() if name not in self.room_shapes}
        return {**shapes, "foresight": ("float32", (self.foresight_size,))} if self.foresight_size else shapes

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RankerConfig":
        return cls(**values)
