"""Closed windows of synthetic examples, and a model without TensorFlow that stands in for `StreamTrainer`."""

import json
import types

import numpy as np

from beam_transforms.local_stream import ClosedWindow
from beam_transforms.schema import WINDOW_MS
from serving.version_manifest import MANIFEST_FILE
from tfx_pipeline.near_real_time.array_file import ArrayFile
from tfx_pipeline.near_real_time.losses import StreamLosses

BEGIN_MS = 1_750_000_000_000 // WINDOW_MS * WINDOW_MS
TASKS = ("ctr", "ltr")


def window(number, rows=200, flipped=False, seed=None, closed_s=None):
    """Window `number`: labels follow `signal` (B,), or what is the opposite of it if `flipped`."""
    rng = np.random.default_rng(number if seed is None else seed)
    signal = rng.normal(size=rows).astype(np.float32)
    chance = 1 / (1 + np.exp(3 * signal if flipped else -3 * signal))
    end_ms = BEGIN_MS + number * WINDOW_MS
    examples = {
        "user_id": rng.integers(0, 20, rows),
        "timestamp_ms": np.sort(end_ms - rng.integers(1, WINDOW_MS, rows)),
        "signal": signal,
        "label": (rng.random((rows, 2)) < chance[:, None]).astype(np.float32),
        "label_mask": np.ones((rows, 2), np.float32),
        "label_weight": np.ones((rows, 2), np.float32),
    }
    return ClosedWindow(end_ms, examples, [("file", rows)], None, {}, examples["timestamp_ms"] + 1000, closed_s)


def line_version(model_dir, version, slope, newest_event_ms=123, tasks=TASKS):
    """Writes a version that a `LineTrainer` can go on from; gives its folder."""
    folder = model_dir / str(version)
    folder.mkdir(parents=True)
    (folder / "line.json").write_text(json.dumps({"slope": slope, "tasks": tasks}))
    manifest = {"span": 1, "newest_event_ms": newest_event_ms, "parent_version": None, "tasks": {}}
    manifest |= {"version": version, "model_name": "ranker", "decision": "blessed", "reasons": []}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


class LineTrainer:
    """One slope for all tasks, learned by a fixed step in the direction of the window's correlation."""

    def __init__(self):
        self.ranker = types.SimpleNamespace(config=types.SimpleNamespace(tasks=TASKS))
        self.slope = np.zeros(1, np.float32)
        self.next_slope = None
        self.next_loss = None
        self.calls = []

    def score(self, examples):
        self.calls.append("score")
        scores = 1 / (1 + np.exp(-np.clip(self.slope, -9, 9) * examples["signal"]))
        return dict.fromkeys(TASKS, scores.astype(np.float32))

    def train(self, examples, key):
        self.calls.append("train")
        rows = len(examples["signal"])
        self.slope = self.slope + np.float32(np.sign(np.mean(examples["signal"] * (examples["label"][:, 0] - 0.5))))
        if self.next_slope is not None:
            self.slope, self.next_slope = np.array([self.next_slope], np.float32), None
        loss, self.next_loss = (0.5 if self.next_loss is None else self.next_loss), None
        return StreamLosses(np.array([loss], np.float32), rows, 0)

    def take_touched(self):
        return {}

    def state(self):
        return [self.slope.copy()]

    def set_state(self, state):
        self.slope = state[0].copy()

    set_weights = set_state

    def weights_of(self, folder):
        found = json.loads((folder / "line.json").read_text())
        if tuple(found["tasks"]) != TASKS:
            raise ValueError(f"{folder} is of another model; these settings differ: tasks")
        return [np.array([found["slope"]], np.float32)]

    def save(self, path, facts, state):
        ArrayFile({"facts": facts}, {"state": state[0]}).save(path)

    def restore(self, path):
        file = ArrayFile.load(path)
        self.set_state([file.arrays["state"]])
        return file.facts["facts"], {}
