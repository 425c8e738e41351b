"""Canary: a new version that some users are served by until it is promoted or rolled back."""

import time
from pathlib import Path
from typing import Any, Protocol

from serving.canary.comparison import CanaryComparison
from serving.canary.config import CanaryConfig
from serving.canary.decision import Decision
from serving.canary.outcomes import read_outcomes
from serving.canary.rule import decide
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import CANARY, CanarySplit
from serving.canary.state import CanaryState


class Labels(Protocol):
    """What moves labels on the server and in the store, e.g. `serving.canary.labels.CanaryLabels`.

    Both may be done again.
    """

    def promote(self, version: int, label: str) -> Any:
        """Gives a version a label."""

    def withdraw(self, label: str) -> Any:
        """Takes a label away."""


class Canary:
    """A new version that some users are served by until it is promoted or rolled back.

    Clients rank with the label that `split` tells for a user. Outcomes of both sides are added up (`read`), and a rule
    decides (`decide`, see `serving.canary.rule`). All that is known stands in one file, written at once: a process
    that is killed at any moment goes on where it was, and counts no outcome twice.
    """

    def __init__(self, path: Path) -> None:
        """Goes on with the canary whose state is in the file `path`.

        Raises:
            FileNotFoundError: No canary was started there.
            ValueError: The file holds something else.
        """
        self._path = path
        self.state = CanaryState.load(path)

    @classmethod
    def start(
        cls, path: Path, version: int, config: CanaryConfig, labels: Labels, now_ms: int | None = None
    ) -> "Canary":
        """Gives `version` the label "canary", and begins to compare.

        Args:
            path: Where the state is kept; an earlier canary there must have ended.
            version: The version to try.
            config: What it is judged by.
            labels: Moves the label.
            now_ms: The time, by default now.

        Raises:
            ValueError: Another canary is running there, or the file holds something else.
        """
        if path.exists():
            before = CanaryState.load(path)
            if before.phase == "running" and (before.version, before.config) != (version, config):
                raise ValueError(
                    f"{path}: version {before.version} is on trial already; decide it, or roll it back, before version "
                    f"{version} is tried"
                )
            if before.phase == "running":  # started again after a crash: what was counted stays
                labels.promote(version, CANARY)
                return cls(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        labels.promote(version, CANARY)
        CanaryState(config, version, _now_ms() if now_ms is None else now_ms).write(path)
        return cls(path)

    @property
    def split(self) -> CanarySplit:
        """Which users get the new version; nobody once the canary has ended."""
        share = self.state.config.share if self.state.phase == "running" else 0.0
        return CanarySplit(share, self.state.config.salt)

    def read(self, outcomes: Path) -> int:
        """Adds what is new in a file or folder of outcomes; see `read_outcomes`. Returns the number of lines.

        Raises:
            OSError: It can't be read.
            ValueError: A file became shorter.
        """
        lines = 0
        for block in read_outcomes(outcomes, self.state.read, self.state.version):
            for side, columns in block.rows.items():
                self.state.sides[side].add(*columns)
                lines += len(columns[0])
            lines += block.refused
            self.state.refused += block.refused
            self.state.refusal = block.refusal or self.state.refusal
            self.state.read[block.file] = block.end
        if lines:
            self.state.write(self._path)
        return lines

    def decide(self, sides: dict[str, SideStatistics] | None = None, now_ms: int | None = None) -> Decision:
        """What is to become of the canary; nothing is done yet.

        Args:
            sides: What happened on the sides "stable" and "canary"; by default what was read.
            now_ms: The time, by default now.
        """
        if self.state.phase != "running":
            return Decision("go_on", (f"version {self.state.version} is {self.state.phase} already",))
        elapsed_s = ((_now_ms() if now_ms is None else now_ms) - self.state.started_ms) / 1000
        return decide(self.state.config, self.state.sides if sides is None else sides, elapsed_s)

    def act(self, decision: Decision, labels: Labels) -> None:
        """Does what was decided: "promote" moves "stable" to the version; both ends take "canary" away.

        After a crash it may be done again.
        """
        if self.state.phase != "running" or decision.action == "go_on":
            return
        if decision.action == "promote":
            labels.promote(self.state.version, "stable")
        labels.withdraw(CANARY)
        self.state.phase = "promoted" if decision.action == "promote" else "rolled_back"
        self.state.reasons = decision.reasons
        self.state.write(self._path)

    def status(self) -> dict[str, Any]:
        """The state in figures: for each side impressions, CTR, calibration, log loss and AUC; and the comparison."""
        state = self.state
        sides = {
            name: {
                "impressions": side.impressions,
                "ctr": side.clicks / side.impressions if side.impressions else None,
                "calibration": side.predicted / side.clicks if side.clicks else None,
                "log_loss": side.log_loss,
                "auc": side.auc,
            }
            for name, side in state.sides.items()
        }
        return {
            "version": state.version,
            "phase": state.phase,
            "reasons": list(state.reasons),
            "started_ms": state.started_ms,
            "share": state.config.share,
            "sides": sides,
            "comparison": CanaryComparison.of(state.config, state.sides).to_json(),
            "refused": state.refused,
            "refusal": state.refusal,
        }


def _now_ms() -> int:
    return int(time.time() * 1000)
