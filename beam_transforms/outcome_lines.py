"""Lines of JSON that say what came of impressions."""

import json

from beam_transforms.stage import Tables


def outcome_lines(found: Tables, names: list[str]) -> list[bytes]:
    """The tables `outcomes` and `failed` of `OutcomeStage` as lines.

    With the impression's time and room, which who compares versions doesn't need, and who looks for one does.

    Args:
        found: The tables.
        names: What the numbers of experiments and errors stand for.
    """
    columns = ("timestamp_ms", "user_id", "live_id", "experiment", "version", "fell_back", "score", "label")
    outcomes, failed = found["outcomes"], found["failed"]
    rows: list[dict[str, object]] = [
        {
            "experiment": names[experiment],
            "user_id": user,
            "live_id": room,
            "timestamp_ms": time_ms,
            "version": version,
            "fell_back": bool(fell_back),
            "score": score,
            "label": int(label),
        }
        for time_ms, user, room, experiment, version, fell_back, score, label in zip(
            *(outcomes[name].tolist() for name in columns), strict=True
        )
    ]
    rows += [
        {"experiment": names[experiment], "user_id": user, "timestamp_ms": time_ms, "error": names[error]}
        for time_ms, user, experiment, error in zip(
            *(failed[name].tolist() for name in ("timestamp_ms", "user_id", "experiment", "error")), strict=True
        )
    ]
    return [json.dumps(row).encode() + b"\n" for row in rows]
