"""ServedVersion: a version that answers, and how it came to."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A version whose answer was seen.

    Attributes:
        version: Its number.
        number: Of its weights, see `StreamLearner.number`; -1 if it isn't known.
        answered_s: When its first answer was there, seconds since 1970.
        rooms: Rooms in that answer; 0 where no room was live, and `serving_default` was asked for an example instead,
            and where nothing was asked as no example was known.
        seconds: Stage -> seconds: `push` (0 where the version was there already), `start` (of the server), `load`
            (until the server had it), `promote` (room side and label), `answer`.
    """

    version: int
    number: int
    answered_s: float
    rooms: int
    seconds: dict[str, float]
