"""Decision: what is to become of a canary, and why."""

import dataclasses
from typing import Literal

Action = Literal["promote", "roll_back", "go_on"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to become of a canary.

    Attributes:
        action: "promote", "roll_back" or "go_on".
        reasons: Why, with the figures, in words.
    """

    action: Action
    reasons: tuple[str, ...]
