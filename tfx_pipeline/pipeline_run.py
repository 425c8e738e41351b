"""Reads from ML Metadata what a pipeline run did."""

import dataclasses

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2


@dataclasses.dataclass(frozen=True)
class ComponentRun:
    """One component's execution.

    Attributes:
        state: Name of the MLMD state, such as "COMPLETE", "CACHED" or "FAILED".
        seconds: Wall time.
        outputs: Name of the output -> artifact.
    """

    state: str
    seconds: float
    outputs: dict[str, metadata_store_pb2.Artifact]

    @property
    def cached(self) -> bool:
        return self.state == "CACHED"

    @property
    def succeeded(self) -> bool:
        return self.state in ("COMPLETE", "CACHED")


def read_runs(store: mlmd.MetadataStore) -> list[dict[str, ComponentRun]]:
    """Oldest first, for each run: component -> what it did, in the order in which they ran."""
    runs = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id)
    return [_read_run(store, run.id) for run in runs]


def read_latest_run(store: mlmd.MetadataStore) -> dict[str, ComponentRun]:
    """The last of `read_runs`."""
    runs = store.get_contexts_by_type("pipeline_run")
    return _read_run(store, max(run.id for run in runs))


def _read_run(store: mlmd.MetadataStore, run_id: int) -> dict[str, ComponentRun]:
    components = {}
    for execution in sorted(store.get_executions_by_context(run_id), key=lambda execution: execution.id):
        (node,) = [c for c in store.get_contexts_by_execution(execution.id) if c.type == "node"]
        events = [
            event
            for event in store.get_events_by_execution_ids([execution.id])
            if event.type in (metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.INTERNAL_OUTPUT)
        ]
        artifacts = {a.id: a for a in store.get_artifacts_by_id([event.artifact_id for event in events])}
        components[node.name.split(".", 1)[1]] = ComponentRun(
            state=metadata_store_pb2.Execution.State.Name(execution.last_known_state),
            seconds=(execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000,
            outputs={event.path.steps[0].key: artifacts[event.artifact_id] for event in events},
        )
    return components
