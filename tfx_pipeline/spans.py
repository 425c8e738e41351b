"""The folder of examples that a pipeline reads: which spans there are, and what each says about itself."""

import json
from pathlib import Path
from typing import Any

from beam_transforms.schema import RankingSchema, schema_from_json

SPLITS = ("train", "eval")


def read_schema(examples: Path) -> RankingSchema:
    """The schema that the examples were written with.

    Raises:
        ValueError: If `schema.json` is missing or isn't one.
    """
    return schema_from_json(_read_json(examples / "schema.json", "the examples' schema"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a span says about itself: `span`, `newest_event_ms` and the number of examples in `train` and `eval`.

    Raises:
        ValueError: If `manifest.json` is missing, which means that the span isn't complete, or unreadable.
    """
    path = folder / "manifest.json"
    manifest = _read_json(path, "the manifest that completes a span")
    missing = sorted({"span", "newest_event_ms", *SPLITS} - set(manifest))
    if missing:
        raise ValueError(f"{path} lacks {missing}; write the span again")
    return manifest


def require_span(examples: Path, span: int) -> Path:
    """The folder of one span, after making sure that it is complete and has examples to train and to evaluate on.

    Raises:
        ValueError: If the span isn't there, has no manifest, or lacks examples in a split.
    """
    folder = examples / f"Span-{span}"
    if not folder.is_dir():
        found = sorted(int(name) for path in examples.glob("Span-*") if (name := path.name[5:]).isdecimal())
        raise ValueError(
            f"there is no Span-{span} in {examples}; it has "
            + (f"the spans {', '.join(map(str, found))}" if found else "no span at all")
        )
    read_manifest(folder)
    for split, purpose in zip(SPLITS, ("train", "evaluate"), strict=True):
        files = list((folder / split).glob("*.tfrecord"))
        if not any(path.stat().st_size for path in files):
            what = f"{len(files)} empty files" if files else "no *.tfrecord"
            raise ValueError(f"span {span} has no example to {purpose} on: {what} in {folder / split}")
    return folder


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {what}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as JSON ({error}): {what}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected an object: {what}")
    return data
