"""Canary: a new version that some users are served by until it is promoted or rolled back."""

import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from serving.canary.comparison import CanaryComparison
from serving.canary.config import CanaryConfig
from serving.canary.decision import Action, Decision
from serving.canary.outcomes import read_outcomes
from serving.canary.rule import decide
from serving.canary.split import CANARY, CanarySplit
from serving.canary.state import CanaryState
from serving.canary.trial import Trial

_BEGUN: dict[Action, str] = {"promote": "promoting", "roll_back": "rolling_back"}
_ENDS = {"promoting": "promoted", "rolling_back": "rolled_back"}


class Labels(Protocol):
    """What moves labels on the server and in the store, e.g. `serving.canary.labels.CanaryLabels`.

    What moves them may be done again.
    """

    @property
    def served(self) -> Mapping[str, int]:
        """Label -> version, as clients go by."""

    @property
    def available(self) -> Collection[int]:
        """Versions that the server has."""

    def promote(self, version: int, label: str) -> Any:
        """Gives a version a label."""

    def withdraw(self, label: str) -> Any:
        """Takes a label away."""


class Canary:
    """A new version that some users are served by until it is promoted or rolled back.

    Clients rank with the label that `split` tells for a user. Outcomes of both sides are added up (`read`), and a rule
    decides (`decide`, see `serving.canary.rule`). Both labels stay where they are meanwhile, else the trial ends. All
    that is known stands in one file, written at once: a process that is killed at any moment goes on where it was, and
    counts no outcome twice.

    Attributes:
        state: All that is known.
        unread: Why the last `read` could not read all that is new; None if it could. Nothing is promoted meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """Goes on with the canary whose state is in the file `path`.

        Raises:
            FileNotFoundError: No canary was started there.
            ValueError: The file holds something else.
        """
        self._path = path
        self.state = CanaryState.load(path)
        self.unread: str | None = None

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
            ValueError: Another canary is running there, or the file holds something else; a trial before had the same
                salt; or there is no other version that is stable and available to compare with.
        """
        before = CanaryState.load(path) if path.exists() else None
        is_again = (
            before is not None and before.phase == "running" and (before.version, before.config) == (version, config)
        )
        if before is not None and before.phase not in _ENDS.values() and not is_again:
            raise ValueError(
                f"{path}: version {before.version} is on trial already ({before.phase}); decide it, or roll it back, "
                f"before version {version} is tried"
            )
        earlier = () if before is None else (*before.earlier, before.config.salt)
        if not is_again and config.salt in earlier:
            raise ValueError(
                f"{path}: there was a trial with the salt {config.salt!r} already, whose outcomes would be counted; "
                "give this one another salt"
            )
        stable = labels.served.get("stable")
        available = labels.available
        if stable is None or stable == version or stable not in available:
            raise ValueError(
                f"version {version} can't be tried: the stable version is {stable}, expected another one that is "
                f"available; the server has {sorted(available)}. Promote one first, and keep both loaded: "
                "model_version_policy { specific { versions: ... } }"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        labels.promote(version, CANARY)
        if not is_again:  # else it is started again after a crash: what was counted stays
            started_ms = _now_ms() if now_ms is None else now_ms
            CanaryState(config, version, stable, started_ms, earlier=earlier).write(path)
        return cls(path)

    @property
    def split(self) -> CanarySplit:
        """Which users get the new version; nobody once it was decided."""
        share = self.state.config.share if self.state.phase == "running" else 0.0
        return CanarySplit(share, self.state.config.salt)

    def read(self, outcomes: Path) -> int:
        """Adds what is new in a file or folder of outcomes; see `read_outcomes`. Returns the number of lines.

        What can't be read doesn't hold up the rest; `unread` says why it can't.

        Raises:
            OSError: The state can't be written.
        """
        lines = 0
        config = self.state.config
        trial = Trial(CanarySplit(config.share, config.salt), self.state.version, self.state.stable_version)
        self.unread = None
        try:
            for block in read_outcomes(outcomes, self.state.read, trial):
                for side, columns in block.rows.items():
                    self.state.sides[side].add(*columns)
                    lines += len(columns[0])
                lines += block.refused
                self.state.refused += block.refused
                self.state.refusal = block.refusal or self.state.refusal
                self.state.read[block.file] = block.end
        except (OSError, ValueError) as error:
            self.unread = str(error)
        if lines:
            self.state.write(self._path)
        return lines

    def decide(self, served: Mapping[str, int], now_ms: int | None = None) -> Decision:
        """What is to become of the canary; nothing is done yet. What `act` has begun to do is decided.

        Args:
            served: Label -> version, as clients go by (`Labels.served`). If a label has moved, the sides aren't what
                they were, and the canary is to be rolled back.
            now_ms: The time, by default now.
        """
        for action, phase in _BEGUN.items():
            if self.state.phase == phase:
                return Decision(action, self.state.reasons)
        if self.state.phase != "running":
            return Decision("go_on", (f"version {self.state.version} is {self.state.phase} already",))
        expected = {"stable": self.state.stable_version, CANARY: self.state.version}
        moved = tuple(
            f"label {label!r} has moved from version {version} to {served.get(label)} during the trial"
            for label, version in expected.items()
            if served.get(label) != version
        )
        if moved:
            return Decision("roll_back", moved)
        elapsed_s = ((_now_ms() if now_ms is None else now_ms) - self.state.started_ms) / 1000
        return decide(self.state.config, self.state.sides, elapsed_s, self.unread)

    def act(self, decision: Decision, labels: Labels) -> None:
        """Does what was decided: "promote" moves "stable" to the version; both ends take "canary" away.

        What is to be done is written first: after a crash or an error it is done again, and nothing else.
        """
        if decision.action == "go_on" or self.state.phase in _ENDS.values():
            return
        if self.state.phase == "running":
            self._enter(_BEGUN[decision.action], decision.reasons)
        if self.state.phase == _BEGUN["promote"]:
            labels.promote(self.state.version, "stable")
        labels.withdraw(CANARY)
        self._enter(_ENDS[self.state.phase], self.state.reasons)

    def _enter(self, phase: str, reasons: tuple[str, ...]) -> None:
        state = dataclasses.replace(self.state, phase=phase, reasons=reasons)
        state.write(self._path)
        self.state = state

    def status(self) -> dict[str, Any]:
        """The state in figures: for each of `SIDES` impressions, CTR, calibration, log loss and AUC; the comparison."""
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
            "stable_version": state.stable_version,
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
