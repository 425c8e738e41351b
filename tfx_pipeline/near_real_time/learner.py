"""StreamLearner: learns from each window once, in their order, and keeps what it has to know in a folder."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from beam_transforms.local_stream import ClosedWindow
from serving.version_manifest import VersionManifest
from tfx_pipeline.gate import Decision
from tfx_pipeline.near_real_time.array_file import ArrayFile
from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.gated_trainer import GatedTrainer
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
from tfx_pipeline.near_real_time.progressive_validation import Figures
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.near_real_time.version_mark import version_mark
from tfx_pipeline.near_real_time.weight_files import WeightFiles, Weights
from tfx_pipeline.near_real_time.window_counts import WindowCounts

HEAD = "learner.state"
"""The file that says which window was dealt with last, and which weights belong to that."""

_FORMAT = 2  # of that file and of the weights beside it


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
        mark: Of that version, see `version_mark`.

    Attributes:
        end_ms: The end of the window that was dealt with last; None before the first.
        stopped: Why nothing is learned any more; None if that isn't so.
        published, version: Number of the weights that were published last, and as which version; None before the first.
        mark: Of that version, see `version_mark`; None if it had none.
        history: A checksum over the windows that were dealt with, in their order, and their decisions.
        adopted: How many versions of someone else were gone on from.
        lineage: Which version goes on from which.

    Raises:
        ValueError: If what is in the folder is damaged, incomplete, of another model, or of another version of this
            program.
    """

    def __init__(
        self,
        trainer: StreamTrainer,
        folder: Path,
        gate: StreamGateConfig | None = None,
        newest_event_ms: int | None = None,
        version: int | None = None,
        mark: int | None = None,
    ) -> None:
        self.trainer, self._folder, self._gate = trainer, Path(folder), gate or StreamGateConfig()
        self.end_ms: int | None = None
        self.stopped: str | None = None
        self.published = None if version is None else 0
        self.version, self.mark = version, mark
        self.history = self.adopted = self._rollbacks_in_a_row = 0
        self.lineage, self._counts = Lineage(), WindowCounts()
        self._files = WeightFiles(self._folder, trainer)
        self._model: GatedTrainer
        self._is_new = not (self._folder / HEAD).exists()
        if not self._is_new:
            self._restore()
            # A killed process may have left weights whose number will be that of other ones.
            self._files.keep((self._model.current.number, self._model.good.number))
        else:
            self._files.keep(())  # a start that was killed may have had another base
            weights = Weights(0, newest_event_ms, trainer.state())
            self._model = GatedTrainer(trainer, self._gate, weights, weights)
            if version is not None:
                self.lineage.published(0, version)
            self.commit()

    @property
    def number(self) -> int:
        """Of the current weights; whoever serves other ones is to be given these."""
        return self._model.current.number

    @property
    def newest_event_ms(self) -> int | None:
        """The newest event that the current weights have learned from; None for random ones."""
        return self._model.current.newest_event_ms

    @property
    def windows(self) -> dict[str, int]:
        """What became of windows -> how many, see `WindowCounts`."""
        return self._counts.windows

    @property
    def examples(self) -> dict[str, int]:
        """The same of their examples."""
        return self._counts.examples

    def learn(self, window: ClosedWindow, behind: str | None = None) -> LearnedWindow:
        """Deals with one window.

        Args:
            window: The next one, or the last one once more.
            behind: Why it isn't to be learned from; None to learn.
        """
        rows = len(window.examples["user_id"])
        if self.end_ms is not None and window.end_ms <= self.end_ms:
            return LearnedWindow(window.end_ms, rows, REPEATED, ("it was dealt with before the restart",))
        if self._base_has(window):
            self.end_ms = window.end_ms
            self.commit()
            return LearnedWindow(window.end_ms, rows, REPEATED, ("the version gone on from has learned from it",))
        if rows == 0:
            result = LearnedWindow(window.end_ms, rows, EMPTY)
        elif self.stopped:
            result = LearnedWindow(window.end_ms, rows, STOPPED, (self.stopped,))
        elif behind:
            result = LearnedWindow(window.end_ms, rows, SKIPPED, (behind,))
        else:
            result = self._model.learn(window)
        if result.decision == LEARNED:
            self._rollbacks_in_a_row = 0
            self._counts.trained(self.number, rows, settled=min(self._model.good.number, self.published or 0))
        else:
            self._counts.add(result.decision, rows)
        if result.decision == ROLLED_BACK:
            result = self._rolled_back(result)
        self.end_ms = window.end_ms
        self.history = zlib.crc32(f"{self.history:08x} {window.end_ms} {result.decision}".encode())
        self.commit()
        return result

    def judge_first(self) -> Decision:
        """Whether a first model may be published: by value alone."""
        return self._model.judge_first()

    def trailing(self) -> Figures:
        """Figures of the windows that were scored last."""
        return self._model.trailing()

    def take_touched(self) -> dict[str, np.ndarray] | None:
        """See `GatedTrainer.take_touched`."""
        return self._model.take_touched()

    def mark_published(self, number: int, version: int, mark: int | None = None) -> None:
        """Notes, with the next window, that the weights of this number were published as this version."""
        self.published, self.version, self.mark = number, version, mark

    def is_of(self, folder: Path) -> bool:
        """Whether a version's folder holds the version that was published or gone on from last, and no other one."""
        return folder.name == str(self.version) and version_mark(folder) == self.mark

    def try_again(self) -> None:
        """Goes on learning after a stop."""
        self.stopped, self._rollbacks_in_a_row = None, 0
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
        mark = version_mark(folder)
        weights, manifest = self.trainer.weights_of(folder), VersionManifest.read(folder)
        self._model.go_on_from(weights, manifest.newest_event_ms)
        dropped = self._counts.take_back(self.published or 0, "dropped")
        self.published, self.version, self.mark = self.number, int(folder.name), mark
        self.adopted += 1
        self.lineage.published(self.published, self.version)
        self.commit()
        return dropped

    def commit(self) -> None:
        """Writes the state as it is now."""
        current, good = self._model.current, self._model.good
        for weights in (current, good):
            self._files.save(weights)
        facts = {
            "format": _FORMAT,
            "end_ms": self.end_ms,
            "history": self.history,
            "current": current.number,
            "good": good.number,
            "published": self.published,
            "version": self.version,
            "mark": self.mark,
            "stopped": self.stopped,
            "rollbacks_in_a_row": self._rollbacks_in_a_row,
            "adopted": self.adopted,
            "counts": self._counts.facts(),
            "lineage": self.lineage.facts(),
            "model": self._model.facts(),
        }
        ArrayFile(facts, self._model.arrays()).save(self._folder / HEAD)
        self._files.keep((current.number, good.number))

    def _base_has(self, window: ClosedWindow) -> bool:
        """Whether a window comes once more, its state was removed, and the version gone on from has learned from it."""
        if not self._is_new or self.end_ms is not None or window.closed_s is not None:
            return False
        if not len(window.examples["user_id"]):
            return False
        return self.newest_event_ms is not None and window.examples["timestamp_ms"].max() <= self.newest_event_ms

    def _rolled_back(self, result: LearnedWindow) -> LearnedWindow:
        self._counts.take_back(self.number, "rolled_back")
        self.lineage.rolled_back(self.number, self._model.last_number)
        self._rollbacks_in_a_row += 1
        if self._rollbacks_in_a_row < self._gate.most_rollbacks:
            return result
        self.stopped = (
            f"training has stopped after {self._rollbacks_in_a_row} rollbacks in a row, the last: {result.reasons[0]}"
        )
        return dataclasses.replace(result, reasons=(*result.reasons, self.stopped))

    def _restore(self) -> None:
        path = self._folder / HEAD
        try:
            head = ArrayFile.load(path)
            facts = head.facts
            if facts.get("format") != _FORMAT:
                raise ValueError(f"format {facts.get('format')!r}, expected {_FORMAT}")
            good = self._files.load(facts["good"])
            current = good if facts["current"] == facts["good"] else self._files.load(facts["current"])
            self._model = GatedTrainer(self.trainer, self._gate, current, good)
            self._model.restore(facts["model"], head.arrays)
            self._counts.restore(facts["counts"])
            self.lineage.restore(facts["lineage"])
            self.end_ms, self.stopped, self.history = facts["end_ms"], facts["stopped"], facts["history"]
            self.published, self.version, self.mark = facts["published"], facts["version"], facts["mark"]
            self.adopted = facts["adopted"]
            self._rollbacks_in_a_row = facts["rollbacks_in_a_row"]
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path}: not a state that the loop can go on from ({found}); go on with the version of this program "
                "that wrote it, or remove it to start from the newest published version: what wasn't published is lost"
            ) from error
