"""StreamLearner: scores a window, learns from it, judges what came out, and goes back if that is worse."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_transforms.local_stream import ClosedWindow
from serving.version_manifest import VersionManifest
from tfx_pipeline.gate import Decision
from tfx_pipeline.near_real_time.array_file import ArrayFile
from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.gate import Trailing, judge_first, judge_scores, judge_training, no_worse
from tfx_pipeline.near_real_time.learned_window import (
    EMPTY,
    LEARNED,
    REPEATED,
    ROLLED_BACK,
    SKIPPED,
    STOPPED,
    LearnedWindow,
)
from tfx_pipeline.near_real_time.lineage import Lineage
from tfx_pipeline.near_real_time.progressive_validation import Figures, ScoredWindow, figures, mean_loss
from tfx_pipeline.near_real_time.score_history import ScoreHistory
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.near_real_time.weight_files import WeightFiles, Weights

HEAD = "learner.state"
"""The file that says which window was dealt with last, and which weights belong to that."""

_COUNTS = ("trained", "rolled_back", "dropped", "skipped", "empty", "stopped")

_KEPT = 2880  # windows: a day


class StreamLearner:
    """Takes windows in their order, each once, and keeps the model's state in a folder.

    After each window the state is in the folder before `learn` returns: new weights in a file of their own, and then,
    by one rename, the head that names them. So whoever is killed at any time and gets the last window once more has
    learned from each window once. What is learned follows from the windows alone, and is the same bit by bit with and
    without kills; but for windows that were skipped, which depend on the clock.

    Args:
        trainer: What learns; its weights are replaced by those of the folder if there are any.
        folder: Where the state is kept; one process may use it at a time.
        gate: What a window has to show.
        newest_event_ms: The newest event that the trainer's weights have learned from, if they are of a version.
        version: The published version that the trainer's weights are of; None if they aren't.

    Raises:
        ValueError: If what is in the folder is damaged, or of another model.
    """

    def __init__(
        self,
        trainer: StreamTrainer,
        folder: Path,
        gate: StreamGateConfig | None = None,
        newest_event_ms: int | None = None,
        version: int | None = None,
    ) -> None:
        self.trainer, self._folder, self._gate = trainer, Path(folder), gate or StreamGateConfig()
        self._history = ScoreHistory(trainer.ranker.config.tasks, self._gate)
        self.end_ms: int | None = None
        self.stopped: str | None = None
        self.published = None if version is None else 0
        self.version = version
        self.history = 0  # a checksum over the windows that were dealt with, in their order, and their decisions
        self.windows = dict.fromkeys(_COUNTS, 0)
        self.examples = dict.fromkeys(_COUNTS, 0)
        self.adopted = 0  # versions of someone else
        self.lineage = Lineage()
        self._losses: dict[str, list[float]] = {"train": [], "before": [], "after": []}
        self._in_a_row = self._numbers = 0
        self._learned: list[tuple[int, int]] = []  # number and examples of windows that may still be taken back
        self._files = WeightFiles(self._folder, trainer)
        self._current: Weights
        self._good: Weights
        if (self._folder / HEAD).exists():
            self._restore()
            # A killed process may have left weights whose number will be that of other ones.
            self._files.keep((self._current.number, self._good.number))
        else:
            self._files.keep(())  # a start that was killed may have had another base
            self._current = self._good = Weights(0, newest_event_ms, trainer.state())
            if version is not None:
                self.lineage.published(0, version)
            self.commit()

    @property
    def number(self) -> int:
        """Of the current weights; whoever serves other ones is to be given these."""
        return self._current.number

    @property
    def last_number(self) -> int:
        """The greatest there was, of weights that were rolled back, too."""
        return self._numbers

    @property
    def newest_event_ms(self) -> int | None:
        return self._current.newest_event_ms

    @property
    def weights_changed_otherwise(self) -> bool:
        """Whether weights were set since the last call, so that touched rows don't tell what has changed."""
        changed, self._set = self._set, False
        return changed

    _set = True

    def learn(self, window: ClosedWindow, behind: str | None = None) -> LearnedWindow:
        """Deals with one window.

        Args:
            window: The next one, or the last one once more.
            behind: Why it isn't to be learned from; None to learn.
        """
        rows = len(window.examples["user_id"])
        if self.end_ms is not None and window.end_ms <= self.end_ms:
            return LearnedWindow(window.end_ms, rows, REPEATED, ("it was dealt with before the restart",))
        if rows == 0:
            result, count = LearnedWindow(window.end_ms, rows, EMPTY), "empty"
        elif self.stopped:
            result, count = LearnedWindow(window.end_ms, rows, STOPPED, (self.stopped,)), "stopped"
        elif behind:
            result, count = LearnedWindow(window.end_ms, rows, SKIPPED, (behind,)), "skipped"
        else:
            result, count = self._learn(window, rows), ""
        if count:
            self._count(count, rows)
        self.end_ms = window.end_ms
        self.history = zlib.crc32(f"{self.history:08x} {window.end_ms} {result.decision}".encode())
        self.commit()
        return result

    def judge_first(self) -> Decision:
        """Whether a first model may be published: by value alone."""
        return judge_first(self.trailing(), self._history.count, self._gate)

    def trailing(self) -> Figures:
        """Figures of the windows that were scored last."""
        return self._history.trailing()

    def mark_published(self, number: int, version: int) -> None:
        """Notes, with the next window, that the weights of this number were published as this version."""
        self.published, self.version = number, version

    def try_again(self) -> None:
        """Goes on learning after a stop."""
        self.stopped, self._in_a_row = None, 0
        self.commit()

    def adopt(self, folder: Path) -> int:
        """Goes on from a version that someone else has published; moments of the optimizer stay.

        Windows that were learned from and not published since are dropped: that version doesn't have them from here.

        Args:
            folder: The version's, named by its number.

        Returns:
            How many windows were dropped.

        Raises:
            ValueError: If it is of another model, or no version; nothing has changed then.
            OSError: If it can't be read.
        """
        folder = Path(folder)
        weights, manifest = self.trainer.weights_of(folder), VersionManifest.read(folder)
        self.trainer.set_weights(weights)
        self._set = True
        dropped = [rows for number, rows in self._learned if number > (self.published or 0)]
        self._move("dropped", dropped)
        self._numbers += 1
        self._current = self._good = Weights(self._numbers, manifest.newest_event_ms, self.trainer.state())
        self._learned, self.published, self.version = [], self._numbers, int(folder.name)
        self.adopted += 1
        self.lineage.published(self.published, self.version)
        self._history.forget_good()
        self.commit()
        return len(dropped)

    def _learn(self, window: ClosedWindow, rows: int) -> LearnedWindow:
        scored = self._scored(window)
        tasks, history = self.trainer.ranker.config.tasks, self._history
        found = figures(scored, tasks)
        trailing = Trailing(history.level, history.count, self._losses)
        by_good: list[ScoredWindow] = []  # scored once, if at all

        def good() -> ScoredWindow:
            if not by_good:
                by_good.append(self._scored_by_good(window, scored))
            return by_good[0]

        def of_good() -> tuple[Figures, Figures]:
            return figures(good(), tasks), history.enough(good(), by_good=True)

        is_other = self._good.number != self._current.number
        verdict = judge_scores(found, history.enough(scored), rows, trailing, of_good if is_other else None, self._gate)
        before = verdict.decision
        if not before.blessed:
            self._move("rolled_back", [rows for number, rows in self._learned if number > self._good.number])
            self._learned = [entry for entry in self._learned if entry[0] <= self._good.number]
            self._take(self._good)
            history.forget_good()
            return self._rolled_back(window, rows, before, found)
        confirmed, changed = verdict.good, verdict.changed
        since_good = sum(number > self._good.number for number, _ in self._learned)
        if not confirmed and since_good >= self._gate.trailing_windows:
            # Not proven to be good for long: nor does it have to go on being compared with a model that isn't better.
            confirmed = changed = no_worse(history.since_good(scored), history.since_good(good(), True), self._gate)
        if changed:
            history.level = {}
        history.add(scored, None if confirmed else good())
        if confirmed:
            self._good = self._current
            history.forget_good()
        losses = self.trainer.train(window.examples, key=window.end_ms)
        loss_after = mean_loss(figures(self._scored(window), self.trainer.ranker.config.tasks))
        after = judge_training(losses.mean, found, loss_after, rows, trailing, self._gate)
        if not after.blessed:
            self._take(self._current)
            return self._rolled_back(window, rows, after, found, losses.mean, loss_after)
        for name, loss in (("train", losses.mean), ("before", mean_loss(found)), ("after", loss_after)):
            if loss is not None and rows >= self._gate.fewest_examples:
                self._losses[name] = [*self._losses[name], loss][-self._gate.trailing_windows :]
        self._in_a_row = 0
        self._numbers += 1
        newest_ms = max(int(window.examples["timestamp_ms"].max()), self._current.newest_event_ms or 0)
        self._current = Weights(self._numbers, newest_ms, self.trainer.state())
        known = min(self._good.number, self.published or 0)
        self._learned = [*(e for e in self._learned if e[0] > known), (self._numbers, rows)][-_KEPT:]
        self._count("trained", rows)
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

    def _rolled_back(
        self,
        window: ClosedWindow,
        rows: int,
        decision: Decision,
        found: Figures,
        loss: float | None = None,
        loss_after: float | None = None,
    ) -> LearnedWindow:
        self._count("rolled_back", rows)
        self.lineage.rolled_back(self._current.number, self._numbers)
        self._in_a_row += 1
        reasons = decision.reasons
        if self._in_a_row >= self._gate.most_rollbacks:
            self.stopped = f"training has stopped after {self._in_a_row} rollbacks in a row, the last: {reasons[0]}"
            reasons = (*reasons, self.stopped)
        return LearnedWindow(
            window.end_ms, rows, ROLLED_BACK, reasons, decision.notes, found, self.trailing(), loss, loss_after
        )

    def _scored(self, window: ClosedWindow) -> ScoredWindow:
        scores = self.trainer.score(window.examples)
        return ScoredWindow.of(window.examples, scores, self.trainer.ranker.config.tasks)

    def _scored_by_good(self, window: ClosedWindow, scored: ScoredWindow) -> ScoredWindow:
        if self._good.number == self._current.number:
            return scored
        self.trainer.set_state(self._good.state)
        try:
            return self._scored(window)
        finally:
            self.trainer.set_state(self._current.state)

    def _take(self, weights: Weights) -> None:
        self.trainer.set_state(weights.state)
        self._current, self._set = weights, True

    def _count(self, what: str, examples: int, windows: int = 1) -> None:
        self.windows[what] += windows
        self.examples[what] += examples

    def _move(self, where: str, examples: list[int]) -> None:
        self._count("trained", -sum(examples), -len(examples))
        self._count(where, sum(examples), len(examples))

    def commit(self) -> None:
        """Writes the state as it is now."""
        for weights in (self._current, self._good):
            self._files.save(weights)
        facts = {
            "end_ms": self.end_ms,
            "current": self._current.number,
            "good": self._good.number,
            "numbers": self._numbers,
            "history": self.history,
            "published": self.published,
            "version": self.version,
            "stopped": self.stopped,
            "in_a_row": self._in_a_row,
            "learned": self._learned,
            "adopted": self.adopted,
            "lineage": self.lineage.facts(),
            "scores": self._history.facts(),
            "windows": self.windows,
            "examples": self.examples,
            "losses": self._losses,
        }
        ArrayFile(facts, self._history.arrays()).save(self._folder / HEAD)
        self._files.keep((self._current.number, self._good.number))

    def _restore(self) -> None:
        head = ArrayFile.load(self._folder / HEAD)
        facts: Mapping[str, Any] = head.facts
        self._good = self._files.load(facts["good"])
        self._current = self._good if facts["current"] == facts["good"] else self._files.load(facts["current"])
        self._history.restore(facts["scores"], head.arrays)
        self.lineage.restore(facts["lineage"])
        self.end_ms, self.stopped, self.history = facts["end_ms"], facts["stopped"], facts["history"]
        self.published, self.version = facts["published"], facts["version"]
        self._numbers, self._in_a_row, self.adopted = facts["numbers"], facts["in_a_row"], facts["adopted"]
        self._learned = [(number, examples) for number, examples in facts["learned"]]
        self.windows, self.examples, self._losses = facts["windows"], facts["examples"], facts["losses"]
