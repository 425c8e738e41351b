"""CanaryState: all that is known of a canary, as one file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from serving.canary.config import CanaryConfig
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import SIDES
from serving.durable_files import replace_durably

_FORMAT = 3


@dataclasses.dataclass
class CanaryState:
    """All that is known of a canary.

    Attributes:
        version: The version that is tried.
        stable_version: The one that was stable at the start.
        started_ms: When it was.
        phase: "running", then "promoting" and "promoted", or "rolling_back" and "rolled_back".
        reasons: Those of the decision that ended it.
        earlier: Salts of trials before this one.
        read: File -> bytes of it that are in the statistics.
        refused: Lines that could not be used, and `refusal` why the last one could not.
        sides: One of `SIDES` -> what happened there.
    """

    config: CanaryConfig
    version: int
    stable_version: int
    started_ms: int
    phase: str = "running"
    reasons: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    read: dict[str, int] = dataclasses.field(default_factory=dict)
    refused: int = 0
    refusal: str = ""
    sides: dict[str, SideStatistics] = dataclasses.field(
        default_factory=lambda: {side: SideStatistics() for side in SIDES}
    )

    def write(self, path: Path) -> None:
        """Replaces the file; after a crash it holds the old state or this one, whole."""
        content: dict[str, Any] = {"format": _FORMAT, "config": dataclasses.asdict(self.config)}
        names = ("version", "stable_version", "started_ms", "phase", "reasons", "earlier", "read", "refused", "refusal")
        content |= {name: getattr(self, name) for name in names}
        content["sides"] = {name: side.to_json() for name, side in self.sides.items()}
        replace_durably(path, json.dumps(content).encode())

    @classmethod
    def load(cls, path: Path) -> "CanaryState":
        """Reads what `write` wrote.

        Raises:
            FileNotFoundError: There is no file; the message says how one begins.
            ValueError: It holds something else.
        """
        try:
            text = path.read_text()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: no canary was started here; `foresight canary start` starts one"
            ) from None
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {_FORMAT}")
            return cls(
                config=CanaryConfig(**content["config"]),
                version=int(content["version"]),
                stable_version=int(content["stable_version"]),
                started_ms=int(content["started_ms"]),
                phase=str(content["phase"]),
                reasons=tuple(content["reasons"]),
                earlier=tuple(content["earlier"]),
                read={str(name): int(size) for name, size in content["read"].items()},
                refused=int(content["refused"]),
                refusal=str(content["refusal"]),
                sides={name: SideStatistics.from_json(content["sides"][name]) for name in SIDES},
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{path}: not the state of a canary ({error!r}); remove it and start the canary again"
            ) from error
