"""ServedVersion: a version that answers, and how it came to."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A version whose answer was seen.

    Attributes:
        version: Its number.
        number: Of its weights, see `StreamLearner.number`.
        pushed_s: When its push began, seconds since 1970.
        answered_s: When its first answer was there.
        rooms: Rooms in that answer; 0 where no room was live, and `serving_default` was asked for an example instead.
        seconds: Stage -> seconds: `push`, `start` (of the server), `load` (until the server had it), `promote` (room
            side and label), `answer`.
    """

    version: int
    number: int
    pushed_s: float
    answered_s: float
    rooms: int
    seconds: dict[str, float]
