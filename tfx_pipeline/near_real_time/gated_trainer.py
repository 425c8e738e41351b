"""GatedTrainer: scores a window, learns from it, judges what came out, and goes back if that is worse."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_transforms.local_stream import ClosedWindow
from tfx_pipeline.gate import Decision
from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.gate import Trailing, judge_first, judge_scores, judge_training, no_worse
from tfx_pipeline.near_real_time.learned_window import LEARNED, ROLLED_BACK, LearnedWindow
from tfx_pipeline.near_real_time.progressive_validation import Figures, ScoredWindow, figures, mean_loss
from tfx_pipeline.near_real_time.score_history import ScoreHistory
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.near_real_time.weight_files import Weights


class GatedTrainer:
    """A trainer, the weights that it has, the last good ones that it goes back to, and what windows are compared with.

    Args:
        trainer: What learns; it has the current weights.
        gate: What a window has to show.
        current: The weights that are learned on.
        good: The last ones that were proven to be good.

    Attributes:
        current, good: The same, as they are now.
        last_number: The greatest number of weights that there was; they may have been rolled back.
    """

    def __init__(self, trainer: StreamTrainer, gate: StreamGateConfig, current: Weights, good: Weights) -> None:
        self._trainer, self._gate, self.current, self.good = trainer, gate, current, good
        self._tasks = trainer.ranker.config.tasks
        self._history = ScoreHistory(self._tasks, gate)
        self._losses: dict[str, list[float]] = {"train": [], "before": [], "after": []}
        self.last_number = current.number
        self._since_good = 0  # windows that the current weights have learned from, and the good ones not
        self._replaced = True

    def learn(self, window: ClosedWindow) -> LearnedWindow:
        """Deals with a window that has examples.

        Returns:
            "learned": the current weights are new ones; or "rolled_back": they are those of before, or the good ones.
        """
        rows = len(window.examples["user_id"])
        scored = self._scored(window)
        found = figures(scored, self._tasks)
        trailing = Trailing(self._history.level, self._history.count, self._losses)
        before = self._judge_current(window, scored, found, trailing)
        if not before.blessed:
            self._take(self.good)
            self._forget_good()
            return self._rolled_back(window, rows, before, found)
        losses = self._trainer.train(window.examples, key=window.end_ms)
        loss_after = mean_loss(figures(self._scored(window), self._tasks))
        after = judge_training(losses.mean, found, loss_after, rows, trailing, self._gate)
        if not after.blessed:
            self._take(self.current)
            return self._rolled_back(window, rows, after, found, losses.mean, loss_after)
        for name, loss in (("train", losses.mean), ("before", mean_loss(found)), ("after", loss_after)):
            if loss is not None and rows >= self._gate.fewest_examples:
                self._losses[name] = [*self._losses[name], loss][-self._gate.trailing_windows :]
        newest_ms = max(int(window.examples["timestamp_ms"].max()), self.current.newest_event_ms or 0)
        self.current = self._new_weights(newest_ms)
        self._since_good += 1
        return LearnedWindow(
            window.end_ms,
            rows,
            LEARNED,
            (*before.reasons, *after.reasons),
            (*before.notes, *after.notes),
            found,
            self.trailing(),
            losses.mean,
            loss_after,
            len(losses.steps),
            losses.rows_left_out,
        )

    def go_on_from(self, weights: Sequence[np.ndarray], newest_event_ms: int) -> None:
        """Takes weights in the order of `model.weights`, which are good ones; the optimizer's state stays."""
        self._trainer.set_weights(weights)
        self._replaced = True
        self.current = self.good = self._new_weights(newest_event_ms)
        self._forget_good()

    def judge_first(self) -> Decision:
        """Whether a first model may be published: by value alone."""
        return judge_first(self.trailing(), self._history.labelled, self._gate)

    def trailing(self) -> Figures:
        """Figures of the windows that were scored last."""
        return self._history.trailing()

    def take_touched(self) -> dict[str, np.ndarray] | None:
        """Path of each embedding table -> its rows that have changed since the last call; None if all may have."""
        touched, replaced = self._trainer.take_touched(), self._replaced
        self._replaced = False
        return None if replaced else touched

    def facts(self) -> dict[str, Any]:
        """All but weights and arrays, in JSON's types, for `restore`."""
        return {
            "last_number": self.last_number,
            "since_good": self._since_good,
            "losses": self._losses,
            "scores": self._history.facts(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Scores that are kept, by name, for `restore`."""
        return self._history.arrays()

    def restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Takes up what `facts` and `arrays` gave.

        Raises:
            ValueError: If it is of other tasks.
        """
        self._history.restore(facts["scores"], arrays)
        self.last_number, self._since_good = facts["last_number"], facts["since_good"]
        self._losses = {name: list(facts["losses"][name]) for name in self._losses}

    def _judge_current(
        self, window: ClosedWindow, scored: ScoredWindow, found: Figures, trailing: Trailing
    ) -> Decision:
        """Whether the current weights may be gone on from, by a window that they haven't seen; takes in its scores."""
        history = self._history

        @functools.cache  # scored once, if at all
        def good() -> ScoredWindow:
            return self._scored_by_good(window, scored)

        def of_good() -> tuple[Figures, Figures]:
            return figures(good(), self._tasks), history.enough(good(), by_good=True)

        is_other = self.good.number != self.current.number
        verdict = judge_scores(
            found, history.enough(scored), len(scored.users), trailing, of_good if is_other else None, self._gate
        )
        if not verdict.decision.blessed:
            return verdict.decision
        confirmed, changed = verdict.good, verdict.changed
        if not confirmed and self._since_good >= self._gate.trailing_windows:
            # Not proven to be good for long: nor does it have to go on being compared with a model that isn't better.
            confirmed = changed = no_worse(history.since_good(scored), history.since_good(good(), True), self._gate)
        if changed:
            history.level = {}
        history.add(scored, None if confirmed else good())
        if confirmed:
            self.good = self.current
            self._forget_good()
        return verdict.decision

    def _rolled_back(
        self,
        window: ClosedWindow,
        rows: int,
        decision: Decision,
        found: Figures,
        loss: float | None = None,
        loss_after: float | None = None,
    ) -> LearnedWindow:
        return LearnedWindow(
            window.end_ms,
            rows,
            ROLLED_BACK,
            decision.reasons,
            decision.notes,
            found,
            self.trailing(),
            loss,
            loss_after,
        )

    def _scored(self, window: ClosedWindow) -> ScoredWindow:
        return ScoredWindow.of(window.examples, self._trainer.score(window.examples), self._tasks)

    def _scored_by_good(self, window: ClosedWindow, scored: ScoredWindow) -> ScoredWindow:
        if self.good.number == self.current.number:
            return scored
        self._trainer.set_state(self.good.state)
        try:
            return self._scored(window)
        finally:
            self._trainer.set_state(self.current.state)

    def _take(self, weights: Weights) -> None:
        self._trainer.set_state(weights.state)
        self.current, self._replaced = weights, True

    def _new_weights(self, newest_event_ms: int) -> Weights:
        self.last_number += 1
        return Weights(self.last_number, newest_event_ms, self._trainer.state())

    def _forget_good(self) -> None:
        self._history.forget_good()
        self._since_good = 0
