"""Trial: which versions are compared, on which users."""

import dataclasses

from serving.canary.split import CanarySplit


@dataclasses.dataclass(frozen=True)
class Trial:
    """Which versions are compared, on which users.

    Attributes:
        split: Divides the users; its salt names the trial.
        version: The version that is tried.
        stable_version: The one that it is compared with.
    """

    split: CanarySplit
    version: int
    stable_version: int
