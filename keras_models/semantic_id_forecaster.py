"""Self-supervised forecaster of a room's next semantic id."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_models.layers._shapes import same
from keras_models.layers.semantic_id_decoder import SemanticIdDecoder
from keras_models.layers.semantic_id_encoder import SemanticIdEncoder

_TARGETS = ("next_segment", "next_change")
_POOLINGS = ("mean", "flatten")


@keras.saving.register_keras_serializable(package="live_foresight")
class SemanticIdForecaster(keras.Model):
    """Forecasts the code of a room's next segment from the runs of codes so far, and encodes those.

        I = SemanticIdEncoder(L', W),    D = SemanticIdDecoder(I),    p = softmax(D . C^T)

        train:  forecast(sequence before its last code)  ->  that code      adds its loss, -log p[code]
        serve:  forecast(whole sequence)                 ->  I pooled, D    returned

    C is the table that embeds the codes (tied). The model needs no labels: `compile(optimizer)`, then `fit` on a dict
    of sequences. In training, `call` adds the loss of the first line and returns the second line's outputs without
    gradient, computed as in serving (no dropout), so a ranker that reads them trains on what it will be served.

    What the last code is depends on `target`:

    - "next_segment": the last segment's. The context is the sequence with one segment taken off: the last run is one
      shorter, and gone if it had one segment only. The target may equal the context's last code.
    - "next_change": the last run's. The context is all runs before it, and the target differs from their last code.

    Examples whose last entry is padding, or that have nothing before the last code, don't count.

    Args:
        codes: K, size of the codebook.
        model_width: D.
        encoder_layers: l_enc.
        decoder_layers: l_dec.
        heads: Attention heads.
        feed_forward_width: Hidden width of the FFNs; `model_width` if None.
        dropout: Rate of dropout.
        max_run_length: Longer runs count as this long.
        positions: Number of learned positions of the encoder, counted from the newest entry; None for no positions.
        target: "next_segment" or "next_change".
        pooling: How the encoding is handed out: "mean" over the entries that count, (B, D), or "flatten", (B, L * D).

    Example:

    >>> forecaster = SemanticIdForecaster(codes=1000)
    >>> runs = {"semantic_ids": np.array([[-1, 7, 250, 7]]), "run_lengths": np.array([[0, 4, 1, 12]])}
    >>> content, prediction = forecaster(runs)
    >>> tuple(content.shape), tuple(prediction.shape), tuple(forecaster.logits(prediction).shape)
    ((1, 64), (1, 64), (1, 1000))

    Reference: Foresight Prediction (WSDM 2026), section 3.1.2 and equations 2 to 6.
    """

    def __init__(
        self,
        codes: int,
        model_width: int = 64,
        encoder_layers: int = 2,
        decoder_layers: int = 1,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.0,
        max_run_length: int = 60,
        positions: int | None = None,
        target: str = "next_segment",
        pooling: str = "mean",
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if target not in _TARGETS:
            raise ValueError(f"target must be one of {_TARGETS}, got {target!r}")
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling must be one of {_POOLINGS}, got {pooling!r}")
        self.target = target
        self.pooling = pooling
        shared = {
            "model_width": model_width,
            "heads": heads,
            "feed_forward_width": feed_forward_width,
            "dropout": dropout,
            "dtype": self.dtype_policy,
        }
        self.encoder = SemanticIdEncoder(
            codes,
            layers=encoder_layers,
            max_run_length=max_run_length,
            positions=positions,
            name="encoder",
            **shared,
        )
        self.decoder = SemanticIdDecoder(layers=decoder_layers, name="decoder", **shared)

    def build(self, input_shape) -> None:
        """Builds for {"semantic_ids": (B, L), "run_lengths": (B, L)}."""
        shape = _checked(input_shape)
        self.encoder.build(shape, tuple(input_shape["run_lengths"]))
        if shape[1] is not None and shape[1] < 2:
            raise ValueError(f"semantic_ids must have at least 2 entries, a context and what follows, got {shape}")
        self.decoder.build((*shape, self.encoder.model_width))

    def call(self, inputs, training=None):
        """Forecasts the code that follows.

        Args:
            inputs: {"semantic_ids": (B, L) integers, oldest first, -1 or anything outside [0, K) is padding, which
                stands in front, "run_lengths": (B, L) integers, segments that each lasted, 0 at padding}.

        Returns:
            content (B, D), or (B, L * D) with pooling="flatten"; zeros for a room of padding alone,
            prediction (B, D), of which `logits` makes scores of codes. Neither carries a gradient in training.
        """
        _checked({name: x.shape for name, x in inputs.items()})
        semantic_ids, run_lengths = inputs["semantic_ids"], inputs["run_lengths"]
        if training:
            self.add_loss(self._self_supervised_loss(semantic_ids, run_lengths))
        content, prediction = self.forecast(semantic_ids, run_lengths)
        return (ops.stop_gradient(content), ops.stop_gradient(prediction)) if training else (content, prediction)

    def forecast(self, semantic_ids, run_lengths, training=False):
        """Forecasts the code that follows these (B, L) sequences; returns what `call` returns."""
        encoding, mask, prediction = self._encode_decode(semantic_ids, run_lengths, training)
        if self.pooling == "flatten":
            return ops.reshape(encoding, (-1, ops.shape(encoding)[1] * encoding.shape[2])), prediction
        entries = ops.maximum(ops.sum(ops.cast(mask, encoding.dtype), axis=1, keepdims=True), 1)
        return ops.sum(encoding, axis=1) / entries, prediction

    def logits(self, prediction):
        """Scores (B, K) of the codes, float32, from a prediction (B, D): products with the table that embeds them."""
        table = ops.cast(self.encoder.code_table, prediction.dtype)
        return ops.cast(ops.matmul(prediction, ops.transpose(table)), "float32")

    def context_and_target(self, semantic_ids, run_lengths):
        """Takes the last code off (B, L) sequences.

        Returns:
            semantic_ids (B, L) and run_lengths (B, L) of the context, target (B,), and counts (B,), true where there
            is a target and a context. Where it is false, the target is any code.
        """
        valid = self.encoder.valid(semantic_ids, run_lengths)
        semantic_ids = ops.cast(ops.where(valid, semantic_ids, -1), "int32")
        run_lengths = ops.cast(ops.where(valid, run_lengths, 0), "int32")
        target = ops.maximum(semantic_ids[:, -1], 0)
        before = (
            ops.pad(semantic_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1),
            ops.pad(run_lengths[:, :-1], ((0, 0), (1, 0))),
        )
        if self.target == "next_change":
            context = before
        else:
            goes_on = run_lengths[:, -1:] > 1
            shorter = ops.concatenate([run_lengths[:, :-1], run_lengths[:, -1:] - 1], axis=1)
            context = ops.where(goes_on, semantic_ids, before[0]), ops.where(goes_on, shorter, before[1])
        counts = ops.logical_and(valid[:, -1], ops.any(context[1] > 0, axis=1))
        return (*context, target, counts)

    def _encode_decode(self, semantic_ids, run_lengths, training):
        mask = self.encoder.valid(semantic_ids, run_lengths)
        encoding = self.encoder(semantic_ids, run_lengths, training=training)
        return encoding, mask, self.decoder(encoding, mask=mask, training=training)

    def _self_supervised_loss(self, semantic_ids, run_lengths):
        semantic_ids, run_lengths, target, counts = self.context_and_target(semantic_ids, run_lengths)
        _, _, prediction = self._encode_decode(semantic_ids, run_lengths, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(target, self.logits(prediction), from_logits=True)
        counts = ops.cast(counts, loss.dtype)
        return ops.sum(loss * counts) / ops.maximum(ops.sum(counts), 1.0)

    def hit_rates(
        self, semantic_ids, run_lengths, at: Sequence[int] = (1, 10), batch_size: int = 1024
    ) -> dict[str, dict[str, float]]:
        """Shares of examples whose code is among the first k guesses: of the model and of the three rules to beat.

        Each example's last code is forecast from what stands before it. The rules guess codes of the context:

        - "last": the latest first;
        - "most_frequent": by their segments among the last L, L being the length of the sequences;
        - "largest_weight": by their segments in the whole context (the paper's table 3, footnotes 2 and 3: the first
          counts in the sequence of segments, the second in that of runs, which reaches further back).

        Of two alike, the later one comes first. For "next_change" the rules don't guess the current code, which is
        known to be wrong.

        Args:
            semantic_ids: (B, L) array.
            run_lengths: (B, L) array, not clipped.
            at: The numbers of guesses k.
            batch_size: Examples at once.

        Returns:
            {"model": {"hit@1": share, "hit@10": share}, "last": ..., "most_frequent": ..., "largest_weight": ...};
            NaN if no example counts.
        """
        semantic_ids, run_lengths = np.asarray(semantic_ids), np.asarray(run_lengths)
        ranks: dict[str, list[np.ndarray]] = {
            name: [np.zeros(0, np.int64)] for name in ("model", "last", "most_frequent", "largest_weight")
        }
        for begin in range(0, len(semantic_ids), batch_size):
            batch = slice(begin, begin + batch_size)
            ids, runs, target, counts = self.context_and_target(semantic_ids[batch], run_lengths[batch])
            model = _rank(self.logits(self._encode_decode(ids, runs, training=False)[2]), target)
            ids, runs, target, counts, model = (ops.convert_to_numpy(x) for x in (ids, runs, target, counts, model))
            ids, runs, target = ids[counts], runs[counts], target[counts]
            ranks["model"].append(model[counts])
            for name, rule in _ranks_of_rules(ids, runs, target, exclude_last=self.target == "next_change").items():
                ranks[name].append(rule)
        joined = {name: np.concatenate(parts) for name, parts in ranks.items()}
        return {
            name: {f"hit@{k}": float((rank < k).mean()) if len(rank) else float("nan") for k in at}
            for name, rank in joined.items()
        }

    def compute_output_shape(self, input_shape):
        batch, length = input_shape["semantic_ids"]
        width = self.encoder.model_width
        if self.pooling == "flatten":
            return (batch, None if length is None else length * width), (batch, width)
        return (batch, width), (batch, width)

    def get_config(self) -> dict:
        encoder = self.encoder
        return {
            **super().get_config(),
            "codes": encoder.codes,
            "model_width": encoder.model_width,
            "encoder_layers": encoder.layers,
            "decoder_layers": self.decoder.layers,
            "heads": encoder.heads,
            "feed_forward_width": encoder.feed_forward_width,
            "dropout": encoder.dropout,
            "max_run_length": encoder.max_run_length,
            "positions": encoder.positions,
            "target": self.target,
            "pooling": self.pooling,
        }


def _checked(shapes) -> tuple:
    """The shape of the sequences, if both are there and of one shape."""
    for name in ("semantic_ids", "run_lengths"):
        if name not in shapes:
            raise ValueError(f"inputs must hold {name!r}, got {sorted(shapes)}")
    ids, runs = tuple(shapes["semantic_ids"]), tuple(shapes["run_lengths"])
    if len(ids) != 2 or not same(ids, runs):
        raise ValueError(f"semantic_ids and run_lengths must be of one shape (batch, entries), got {ids} and {runs}")
    return ids


def _rank(logits, target):
    """(B,) how many codes come before the target; of equal scores the lower code does. Not a number comes last."""
    score = ops.take_along_axis(logits, ops.expand_dims(target, 1), axis=1)
    not_below = ops.logical_not(ops.less(logits, score))
    codes = ops.expand_dims(ops.arange(ops.shape(logits)[1], dtype="int32"), 0)
    behind = ops.logical_and(ops.equal(logits, score), codes >= ops.expand_dims(target, 1))
    return ops.sum(ops.cast(not_below, "int32"), axis=1) - ops.sum(ops.cast(behind, "int32"), axis=1)


def _ranks_of_rules(ids, runs, target, exclude_last: bool) -> dict[str, np.ndarray]:
    """(B,) how many codes each rule guesses before the target, or more than any number if it never does."""
    rows, entries = np.nonzero(runs > 0)
    codes, weights = ids[rows, entries].astype(np.int64), runs[rows, entries].astype(np.float64)
    segments_after = runs[:, ::-1].cumsum(axis=1, dtype=np.int64)[:, ::-1] - runs
    recent = np.clip(runs.shape[1] - segments_after, 0, runs)[rows, entries].astype(np.float64)
    # One group a row and code: its weight, and the entry where the code was last.
    base = codes.max(initial=0) + target.max(initial=0) + 1
    groups, group_of = np.unique(rows * base + codes, return_inverse=True)
    group_rows = groups // base
    latest = np.zeros(len(groups), np.int64)
    np.maximum.at(latest, group_of, entries)
    candidate = np.ones(len(groups), bool)
    if exclude_last:
        candidate = groups % base != ids[group_rows, -1]
    wanted = np.arange(len(target)) * base + target
    place = np.minimum(np.searchsorted(groups, wanted), len(groups) - 1)
    known = (groups[place] == wanted) & candidate[place]
    scores = {
        "last": np.zeros(len(groups)),
        "most_frequent": np.bincount(group_of, recent, len(groups)),
        "largest_weight": np.bincount(group_of, weights, len(groups)),
    }
    ranks = {}
    for name, score in scores.items():
        order = score * (runs.shape[1] + 1) + latest  # exact: far below 2^53
        before = candidate & (order > order[place][group_rows])
        rank = np.bincount(group_rows[before], minlength=len(target))
        ranks[name] = np.where(known, rank, np.iinfo(np.int64).max)
    return ranks
