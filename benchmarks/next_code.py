"""The next emote of a real chat: SemanticIdForecaster against its three rules and a first-order Markov chain.

The emotes of a chat log stand for semantic ids: the most frequent of the training sessions are the codes, a session's
emotes in order of time are its sequence, and each emote after the first is forecast from those before it. Sessions are
split by date, 80/10/10; settings were chosen on the second part, and the third is reported. Model, rules and chain
are asked at the same positions.
"""

import csv
import gzip
import time
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np

from benchmarks.harness import goal, report
from keras_models.semantic_id_forecaster import SemanticIdForecaster

CODES = 1_000
ENTRIES = 32
"""Runs in a sequence, the one with the target included."""
AT = (1, 10)
EXAMPLES = 300_000

OPTIONS: list[click.Option] = [
    click.Option(
        ["--input", "folder"],
        type=click.Path(exists=True, file_okay=False),
        required=True,
        help="Folder with a *_chat.csv.gz of session_id, date, offset_s and emotes.",
    ),
    click.Option(
        ["--examples"], type=click.IntRange(1), default=EXAMPLES, show_default=True, help="Training examples."
    ),
    click.Option(["--seeds"], type=click.IntRange(1), default=1, show_default=True, help="Runs, one a seed."),
]


def run(folder: str, examples: int = EXAMPLES, seeds: int = 1) -> dict[str, Any]:
    """Trains and evaluates once a seed; see the module's docstring."""
    train, _, test = streams(folder)
    positions = test.positions
    chain = MarkovChain(train).hit_rates(test, positions)
    rates: list[dict[str, dict[str, float]]] = []
    seconds: list[float] = []
    for seed in range(seeds):
        forecaster, spent = trained(train, examples, seed)
        sequences = test.sequences(positions)
        rates.append(forecaster.hit_rates(sequences["semantic_ids"], sequences["run_lengths"], at=AT))
        seconds.append(spent)
    goals = [
        goal(f"{name} of the next emote, against a first-order Markov chain's", of_model, ">=", chain[name])
        for name, of_model in ((name, [rate["model"][name] for rate in rates]) for name in chain)
    ]
    rules = {name: shares for name, shares in rates[0].items() if name != "model"}
    return {
        **report("next-code", goals, "keras", "numpy", keras.backend.backend()),
        "hit_rates": {"model": [rate["model"] for rate in rates], "markov_chain": chain, **rules},
        "positions": {"train": len(train.positions), "test": len(positions)},
        "examples": examples,
        "training_seconds": seconds,
    }


class Stream:
    """The codes of one part of the sessions, one session after the other."""

    def __init__(self, code: np.ndarray, session: np.ndarray) -> None:
        """Takes the code and the session of each emote, in order."""
        self.code, self.session = code, session
        opens = np.append(True, session[1:] != session[:-1])[: len(session)]
        self.positions = np.flatnonzero(~opens)
        """Emotes with at least one before them in their session."""
        starts_run = opens | np.append(True, code[1:] != code[:-1])[: len(code)]
        self._run = np.cumsum(starts_run) - 1  # of each emote
        self._run_start = np.flatnonzero(starts_run)
        self._run_length = np.diff(np.append(self._run_start, len(code)))

    def sequences(self, positions: np.ndarray, entries: int = ENTRIES) -> dict[str, np.ndarray]:
        """The last runs up to each of these emotes, the emote included: what SemanticIdForecaster takes."""
        newest = self._run[positions]
        runs = newest[:, None] + np.arange(1 - entries, 1)
        start, length = self._run_start[np.maximum(runs, 0)], self._run_length[np.maximum(runs, 0)]
        length[:, -1] = positions - start[:, -1] + 1  # the newest run, as far as it has come
        valid = (runs >= 0) & (self.session[start] == self.session[positions][:, None])
        return {
            "semantic_ids": np.where(valid, self.code[start], -1).astype(np.int32),
            "run_lengths": np.where(valid, length, 0).astype(np.int32),
        }


def streams(folder: str | Path) -> tuple[Stream, Stream, Stream]:
    """Reads training, validation and test part: sessions by date, 80/10/10."""
    files = sorted(Path(folder).glob("*_chat.csv.gz"))
    if len(files) != 1:
        raise ValueError(f"expected one *_chat.csv.gz in {folder}, found {len(files)}")
    session_ids: dict[tuple[str, str], int] = {}
    names: dict[str, int] = {}
    sessions: list[int] = []
    offsets: list[float] = []
    emotes: list[int] = []
    with gzip.open(files[0], "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            of = session_ids.setdefault((row["date"], row["session_id"]), len(session_ids))
            for name in row["emotes"].split():
                sessions.append(of)
                offsets.append(float(row["offset_s"]))
                emotes.append(names.setdefault(name, len(names)))
    place = np.empty(len(session_ids), np.int64)
    place[[session_ids[key] for key in sorted(session_ids)]] = np.arange(len(session_ids))
    session = place[sessions]
    ordered = np.lexsort((np.array(offsets), session))  # a stable sort: emotes of a message stay in order
    session, emote = session[ordered], np.array(emotes)[ordered]
    part = np.searchsorted(np.array([0.8, 0.9]) * len(place), session, side="right")
    frequency = np.bincount(emote[part == 0], minlength=len(names))
    code = np.full(len(names), -1)
    most_frequent = np.argsort(-frequency, kind="stable")[: min(CODES, np.count_nonzero(frequency))]
    code[most_frequent] = np.arange(len(most_frequent))
    code = code[emote]
    train, validation, test = (
        Stream(code[keep], session[keep]) for keep in ((code >= 0) & (part == i) for i in range(3))
    )
    return train, validation, test


class MarkovChain:
    """Guesses codes by how often they followed the last one in training, then by how often they came at all."""

    def __init__(self, train: Stream) -> None:
        followed = np.zeros((CODES, CODES))
        np.add.at(followed, (train.code[train.positions - 1], train.code[train.positions]), 1)
        came = np.bincount(train.code, minlength=CODES)
        self._guesses = np.argsort(-(followed + came / (came.sum() + 1)), axis=1, kind="stable")

    def hit_rates(self, stream: Stream, positions: np.ndarray) -> dict[str, float]:
        """Shares of positions whose code is among the first k guesses."""
        hits = self._guesses[stream.code[positions - 1], : max(AT)] == stream.code[positions][:, None]
        return {f"hit@{k}": float(hits[:, :k].any(axis=1).mean()) for k in AT}


class _Batches(keras.utils.PyDataset):
    """Sequences of positions drawn without repetition, and anew where a pass is over; built as they are asked for."""

    def __init__(self, stream: Stream, examples: int, batch_size: int, seed: int) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        passes = -(-examples // len(stream.positions))
        self._drawn = np.concatenate([generator.permutation(stream.positions) for _ in range(passes)])[:examples]
        self._stream, self._batch_size = stream, batch_size

    def __len__(self) -> int:
        return max(len(self._drawn) // self._batch_size, 1)

    def __getitem__(self, index: int):
        batch = slice(index * self._batch_size, (index + 1) * self._batch_size)
        return (self._stream.sequences(self._drawn[batch]),)


def trained(
    train: Stream, examples: int, seed: int, learning_rate: float = 4e-3, batch_size: int = 512
) -> tuple[SemanticIdForecaster, float]:
    """A forecaster after this many examples, and the seconds that they took."""
    keras.utils.set_random_seed(seed)
    # Without positions the model doesn't know which emote was the last one.
    forecaster = SemanticIdForecaster(CODES, positions=ENTRIES)
    forecaster.build({"semantic_ids": (None, ENTRIES), "run_lengths": (None, ENTRIES)})
    batches = _Batches(train, examples, batch_size, seed)
    warmup = max(len(batches) // 20, 1)
    rate = keras.optimizers.schedules.CosineDecay(
        learning_rate / 20, max(len(batches) - warmup, 1), alpha=0.0, warmup_target=learning_rate, warmup_steps=warmup
    )
    forecaster.compile(keras.optimizers.Adam(rate), jit_compile=False)
    began = time.perf_counter()
    forecaster.fit(batches, shuffle=False, verbose=0)
    return forecaster, time.perf_counter() - began
