"""LocalStages: the stages in this process, a window at a time, without a runner."""

from collections.abc import Mapping

from beam_transforms.columnar import Columns
from beam_transforms.feature_stages import stages
from beam_transforms.labels import LabelPolicy
from beam_transforms.schema import RankingSchema
from beam_transforms.stage import StageState, Tables, advance
from beam_transforms.stage_state import decode_state, encode_state


class LocalStages:
    """What `FeatureStages` does over unbounded input, for one machine: call `step` at each window's end.

    It is the same code on the same rows, so what flows out is the same, value for value.

    Args:
        schema: What an example is.
        policy: When a label is known, and what it is.
        lateness_ms: How much later than the watermark a row may come.
        state: What `state` gave at an earlier time; the beginning by default.

    Raises:
        ValueError: If the state is of another schema.
    """

    def __init__(
        self, schema: RankingSchema, policy: LabelPolicy, lateness_ms: int = 0, state: Mapping[str, bytes] | None = None
    ) -> None:
        user, author, room = stages(schema, policy, store=True)
        self._stages = {"user": user, "author": author, "room": room}
        self._lateness_ms = lateness_ms
        self._states: dict[str, StageState] = {
            name: decode_state(stage, (state or {}).get(name)) for name, stage in self._stages.items() if stage
        }

    def step(self, arrived: Mapping[str, list[Columns]], now_ms: int) -> Tables:
        """Goes on to the watermark `now_ms`.

        Args:
            arrived: Rows that came since the last step: `events`, `impressions`, `semantic_ids` and `products`.
            now_ms: The end of a window, later than the last one.

        Returns:
            `examples`, `stored_<key>` for each key of `schema.stored`, and `late_<input>` where rows came too late.
        """
        flowing: dict[str, list[Columns]] = dict(arrived)
        outputs: Tables = {}
        for name, stage in self._stages.items():
            if stage is not None:
                inputs = {table: flowing[table] for table in stage.inputs if table in flowing}
                self._states[name], found = advance(stage, self._states[name], inputs, now_ms, self._lateness_ms)
                flowing |= {table: [rows] for table, rows in found.items()}
                outputs |= found
        return {name: rows for name, rows in outputs.items() if name.startswith(("examples", "late_", "stored_"))}

    @property
    def state(self) -> dict[str, bytes]:
        """All that has to be kept to go on from here."""
        return {name: encode_state(state) for name, state in self._states.items()}
