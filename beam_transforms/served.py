"""Served: which versions of a model answer, and how wide their foresight vectors are."""

import dataclasses
import json
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Served:
    """What readers of an online store go by when they choose a version.

    Attributes:
        labels: Label, such as "stable" or "canary" -> version. Empty when nothing was ever set.
        foresight_sizes: Version -> F, the width of its foresight vectors; 0 for a model that has none. Each version
            with a label is in it, and others whose vectors are kept for requests that are under way.

    Raises:
        ValueError: If a label is empty or its version has no size, or a version or a size is negative.
    """

    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    foresight_sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [*self.labels.values(), *self.foresight_sizes, *self.foresight_sizes.values()]
        if "" in self.labels or min(numbers, default=0) < 0:
            raise ValueError(
                f"labels must not be empty, versions and sizes not negative; got labels {dict(self.labels)} and "
                f"foresight sizes {dict(self.foresight_sizes)}"
            )
        without = {label: version for label, version in self.labels.items() if version not in self.foresight_sizes}
        if without:
            raise ValueError(
                f"the labels {without} are of versions without a foresight size, of which there are "
                f"{dict(self.foresight_sizes)}; give 0 for a model without foresight vectors"
            )

    def version(self, label: str) -> int | None:
        """The version under a label; None as long as no label was set.

        Raises:
            ValueError: If there are labels, and this isn't one.
        """
        if self.labels and label not in self.labels:
            raise ValueError(f"no version is served under the label {label!r}; the labels are {dict(self.labels)}")
        return self.labels.get(label)

    @property
    def data(self) -> bytes:
        """One line of JSON; equal for equal content."""
        sizes = {str(version): self.foresight_sizes[version] for version in sorted(self.foresight_sizes)}
        return json.dumps({"foresight_sizes": sizes, "labels": dict(sorted(self.labels.items()))}).encode()

    @classmethod
    def parse(cls, data: bytes | None, where: str) -> "Served":
        """The inverse of `data`, and an empty one for None; raises ValueError on anything else."""
        if data is None:
            return cls()
        try:
            described = json.loads(data)
            labels = {str(label): int(version) for label, version in described["labels"].items()}
            sizes = {int(version): int(size) for version, size in described["foresight_sizes"].items()}
            return cls(labels, sizes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where}: what is said there of the versions that are served can't be read ({error}); it is damaged: "
                "promote a version again"
            ) from error
