"""When the loop's labels are known: the policy that a configuration names, with defaults by task."""

from typing import Any

from beam_transforms.columnar import empty
from beam_transforms.fast_slow import FastSlow
from beam_transforms.first_only import FirstOnly
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.schema import EVENT_COLUMNS, EventKind, Task
from beam_transforms.sliver import Sliver
from tfx_pipeline.near_real_time.config import StreamConfig

_POLICIES = {"first_only": FirstOnly, "sliver": Sliver, "fast_window": FastWindow, "fast_slow": FastSlow}
_HORIZON_S = 300.0
"""What the pipeline's labels, those of FastWindow, wait for."""

_SOON_S = 30.0
"""What tasks wait for that are known by then: who enters does so at once, or in half of it."""


def label_policy(config: StreamConfig, tasks: tuple[Task, ...]) -> LabelPolicy:
    """The policy that the configuration names, with the options that it leaves out.

    Raises:
        ValueError: If the policy doesn't take its options, or a task needs others.
    """
    options: dict[str, Any] = {}
    if config.policy == "fast_window":
        soon_s = _soon_s(tasks)
        options = {"window_s": max(soon_s.values()) if len(soon_s) == len(tasks) > 0 else _HORIZON_S}
        if "window_s" not in config.policy_options:
            options["task_window_s"] = soon_s
    elif config.policy != "fast_slow":
        options = {"horizon_s": _HORIZON_S}
    try:
        policy = _POLICIES[config.policy](**{**options, **config.policy_options})
        events = empty(EVENT_COLUMNS)
        policy.label(events, {name: events[name] for name in IMPRESSION_COLUMNS}, tasks, 0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"policy_options: {error}") from error
    return policy


def _soon_s(tasks: tuple[Task, ...]) -> dict[str, float]:
    """Windows of tasks that needn't wait for the rarest."""
    windows_s = {}
    for task in tasks:
        if task.within_s is not None:
            windows_s[task.name] = float(max(task.within_s, task.watch_s or 0))
        elif task.kind == EventKind.ENTER or (task.watch_s is not None and task.watch_s <= _SOON_S / 2):
            windows_s[task.name] = _SOON_S
    return windows_s
