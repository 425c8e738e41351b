"""VersionManifest: what is known of a published version, the file `version.json` beside it."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST_FILE = "version.json"

_FIELDS: dict[str, tuple[type, ...]] = {
    "model_name": (str,),
    "span": (int,),
    "newest_event_ms": (int,),
    "parent_version": (int, type(None)),
    "tasks": (dict,),
    "decision": (str,),
    "reasons": (list, tuple),
}


@dataclasses.dataclass(frozen=True)
class VersionManifest:
    """What the pipeline says of a model that it publishes.

    Attributes:
        span: The span of examples that it was trained on last.
        newest_event_ms: Time of the newest event that it has learned from, milliseconds since the epoch.
        parent_version: The version that its training started from; None for a first one.
        tasks: Task -> metrics.
        decision: The gate's; only "blessed" models are published.
        reasons: Why, in words.
    """

    model_name: str
    span: int
    newest_event_ms: int
    parent_version: int | None
    tasks: Mapping[str, Any]
    decision: str
    reasons: tuple[str, ...]

    @classmethod
    def from_dict(cls, manifest: Mapping[str, Any]) -> "VersionManifest":
        """Checks what the pipeline hands over.

        Raises:
            ValueError: A field is missing, unknown or of another type, the gate has not blessed the model, or the
                model's name can't be a folder's.
        """
        if set(manifest) != set(_FIELDS):
            raise ValueError(
                f"a manifest has the fields {sorted(_FIELDS)}; missing: {sorted(set(_FIELDS) - set(manifest))}, "
                f"unknown: {sorted(set(manifest) - set(_FIELDS))}"
            )
        for field, types in _FIELDS.items():
            if not isinstance(manifest[field], types) or isinstance(manifest[field], bool):
                expected = " or ".join(kind.__name__ for kind in types)
                raise ValueError(f"{field} of a manifest must be {expected}, got {manifest[field]!r}")
        if manifest["decision"] != "blessed":
            raise ValueError(
                f"only a model that the gate has blessed is published; decision is {manifest['decision']!r}, "
                f"reasons: {manifest['reasons']}"
            )
        name = manifest["model_name"]
        if not name or name.startswith(".") or any(character in name for character in "/:\\\0"):
            raise ValueError(f"model_name must be the name of a folder, and can't hold / : or \\, got {name!r}")
        return cls(**{**manifest, "reasons": tuple(manifest["reasons"])})

    @classmethod
    def read(cls, version_folder: Path) -> "VersionManifest":
        """The manifest of a published version.

        Raises:
            ValueError: It is missing, damaged, or that of another version.
        """
        path = Path(version_folder) / MANIFEST_FILE
        try:
            content = json.loads(path.read_text())
            version = content.pop("version", None)
            content.pop("created_ms", None)
            manifest = cls.from_dict(content)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not the manifest of a published version: {error}") from error
        if str(version) != path.parent.name:
            raise ValueError(f"{path} is the manifest of version {version}")
        return manifest

    def to_json(self, version: int) -> str:
        """The text of `version.json`: the manifest, the version's number and the time of publishing in milliseconds.

        Raises:
            ValueError: The metrics hold something that JSON can't.
        """
        content = {"version": version, **dataclasses.asdict(self), "created_ms": time.time_ns() // 1_000_000}
        try:
            return json.dumps(content, indent=1, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ValueError(f"the manifest can't be written as JSON (NaN metrics must be null): {error}") from error
