"""What a ranker is built from."""

import dataclasses
from typing import Any

VARIANTS = ("base", "historical_content", "foresight_prediction", "statistic", "product", "all")
"""What the ranker knows of the room's future: nothing; the encoding of its semantic ids; the prediction of its next
segment; its statistic forecast; its next product; all of these."""

ARCHITECTURES = ("mmoe", "ple", "shared_bottom", "din", "fm")
"""How scores come out of the features. `mmoe` is the papers' ranker, the others are its baselines: progressive layered
extraction; one bottom shared by all tasks; a network for each task behind target attention; a factorisation machine."""

_TAKEN = (
    *("user_id", "author_id", "entered_authors", "foresight", "statistic_sequence", "statistic_mask"),
    *("semantic_ids", "run_lengths", "product_ids", "product_categories"),
)


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
        semantic_id_length: l, entries of `semantic_ids` and `run_lengths`; 0 if examples have none.
        product_length: Entries of `product_ids` and `product_categories`; 0 if examples have none.
        variant: One of `VARIANTS`.
        architecture: One of `ARCHITECTURES`.
        user_bins: Rows of the users' table; about twice the number of users keeps most apart.
        author_bins: Rows of the authors' table.
        embedding_dim: Width of an id's vector.
        embedding_dropout: Rate at which a whole id vector is dropped in training: what keeps ids from being learned by
            heart, and what teaches the ranker to answer for users and authors it hasn't seen.
        embedding_stddev: Of the ids' vectors at start.
        affinity_scale: Factor of the dot products between ids' vectors; see `LiveRanker`.
        bucket_steps: Smooth steps into which each dense feature is cut.
        attention_units: Hidden widths of the target attention.
        experts: Number of experts; with `ple`, of a task's own and of shared ones each.
        expert_units: Widths of each expert's layers.
        tower_units: Hidden width of each task's tower.
        dropout: Rate of dropout on the towers' inputs.
        initial_logit: Bias of the outputs at start; -3 is a probability of 4.7 %, near the base rates of most tasks.
        model_width: D, the forecasters' width.
        forecaster_layers: The forecasters' encoder layers.
        forecaster_heads: The forecasters' attention heads.
        forecaster_dropout: Rate of dropout in the forecasters; a stream is seen once, so there is little to overfit.
        log1p: Whether the statistic forecaster's encoder sees log(1 + x).
        codes: K, semantic ids in the codebook.
        max_run_length: Longer runs of one semantic id count as this long.
        categories: Product categories of the levels 1, 2 and 3.
        product_bins: Rows of the products' table.
        foresight_units: Width to which the ranker maps each encoding of the room.
    """

    tasks: tuple[str, ...]
    dense_features: dict[str, int]
    metrics: int
    sequence_length: int = 40
    horizon: int = 3
    entered_authors_length: int = 20
    semantic_id_length: int = 0
    product_length: int = 0
    variant: str = "statistic"
    architecture: str = "mmoe"
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
    codes: int = 20_000
    max_run_length: int = 100
    categories: tuple[int, int, int] = (50, 1_000, 5_000)
    product_bins: int = 50_000
    foresight_units: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.tasks, str):
            raise ValueError(f"tasks must be a sequence of names, got the string {self.tasks!r}")
        # JSON knows lists only: what was written from a tuple is taken back as one.
        for name in ("tasks", "attention_units", "expert_units", "categories"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be one or more distinct names, got {self.tasks}")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        for name in ("semantic_id_length", "product_length"):
            if getattr(self, name) < 0 or getattr(self, name) == 1:
                raise ValueError(f"{name} must be 0 (no such input) or at least 2, got {getattr(self, name)}")
        needed = {"semantic_id_length": self.uses("historical_content") or self.uses("foresight_prediction")}
        needed["product_length"] = self.uses("product")
        missing = [name for name, is_needed in needed.items() if is_needed and not getattr(self, name)]
        if missing:
            raise ValueError(f"the variant {self.variant!r} needs {' and '.join(missing)} of at least 2, got 0")
        if not 0 < self.horizon < self.sequence_length:
            raise ValueError(
                f"horizon must lie between 1 and sequence_length - 1 = {self.sequence_length - 1}, got {self.horizon}"
            )
        if self.metrics < 1 or len(self.categories) != 3:
            raise ValueError(
                "metrics must be at least 1 and categories the numbers of three levels, "
                f"got metrics={self.metrics} and categories={self.categories}"
            )
        taken = [name for name in self.dense_features if name in _TAKEN]
        if taken:
            raise ValueError(f"dense_features must not have the names of other inputs, got {taken}")
        empty = [name for name, width in self.dense_features.items() if width < 1]
        if empty or not self.dense_features:
            raise ValueError(f"dense_features must be one or more names with widths of at least 1, got {empty or '{}'}")

    def uses(self, source: str) -> bool:
        """Whether the variant has the foresight `source`, one of `VARIANTS` but "base" and "all"."""
        return self.variant in (source, "all")

    @property
    def foresight_parts(self) -> dict[str, int]:
        """Name -> width of what the variant's forecasters say of a room, in order; empty in the variant "base"."""
        parts = {
            "statistic": {
                "level": self.metrics * (self.horizon + 3),
                "statistic_encoding": self.metrics * self.model_width,
            },
            "historical_content": {"historical_content": self.model_width},
            "foresight_prediction": {"foresight_prediction": self.model_width},
            "product": {
                "next_category": self.embedding_dim,
                "product_encoding": (self.product_length - 1) * self.model_width,
            },
        }
        return {name: width for source, widths in parts.items() if self.uses(source) for name, width in widths.items()}

    @property
    def read_parts(self) -> dict[str, int]:
        """Like `foresight_parts`, as the ranker reads them: counts keep their width, encodings become a few numbers."""
        parts = self.foresight_parts
        return {name: width if name == "level" else self.foresight_units for name, width in parts.items()}

    @property
    def foresight_size(self) -> int:
        """F, width of the foresight vector, that is, of all `read_parts`; 0 in the variant "base"."""
        return sum(self.read_parts.values())

    @property
    def _sequences(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The room's sequences that examples hold, whether the variant looks at them or not."""
        shapes = {
            "statistic_sequence": ("float32", (self.sequence_length, self.metrics)),
            "statistic_mask": ("float32", (self.sequence_length,)),
        }
        if self.semantic_id_length:
            shapes |= dict.fromkeys(("semantic_ids", "run_lengths"), ("int64", (self.semantic_id_length,)))
        if self.product_length:
            shapes["product_ids"] = ("int64", (self.product_length,))
            shapes["product_categories"] = ("int64", (self.product_length, 3))
        return shapes

    @property
    def room_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Like `input_shapes`, for the signature `forecast`: the sequences that the variant's forecasters look at."""
        prefixes = {"statistic": "statistic_", "product": "product_"}
        wanted = tuple(prefix for source, prefix in prefixes.items() if self.uses(source))
        if self.uses("historical_content") or self.uses("foresight_prediction"):
            wanted += ("semantic_ids", "run_lengths")
        return {name: entry for name, entry in self._sequences.items() if name.startswith(wanted)}

    @property
    def input_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> dtype and shape without the batch of the inputs of `serving_default`, the same in all variants."""
        return {
            "user_id": ("int64", ()),
            "author_id": ("int64", ()),
            "entered_authors": ("int64", (self.entered_authors_length,)),
            **self._sequences,
            **{name: ("float32", (width,)) for name, width in self.dense_features.items()},
        }

    @property
    def rank_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Like `input_shapes`, for the signature `rank`: the foresight vector stands in for the room's sequences."""
        shapes = {name: entry for name, entry in self.input_shapes.items() if name not in self._sequences}
        return {**shapes, "foresight": ("float32", (self.foresight_size,))} if self.foresight_size else shapes

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RankerConfig":
        return cls(**values)
