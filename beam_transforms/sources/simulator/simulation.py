"""Runs the simulated platform over time and writes what it would have logged."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.catalogue import Catalogue
from beam_transforms.sources.simulator.clock import activity
from beam_transforms.sources.simulator.content_states import ContentStates
from beam_transforms.sources.simulator.engagement import Engagement
from beam_transforms.sources.simulator.folder_writer import FolderWriter
from beam_transforms.sources.simulator.rooms import Rooms
from beam_transforms.sources.simulator.session_log import SessionLog
from beam_transforms.sources.simulator.simulation_summary import SimulationSummary
from beam_transforms.sources.simulator.simulator_config import SimulatorConfig
from beam_transforms.sources.simulator.tables import TABLES
from beam_transforms.sources.simulator.time_ordered_buffer import TimeOrderedBuffer
from beam_transforms.sources.simulator.users import Users
from beam_transforms.sources.simulator.visits import VISIT_MS, Visits

_DAY_MS = 86_400_000
_BLOCK_IMPRESSIONS = 32_000  # simulated at once: enough for numpy, little enough for memory
_BLOCK_MS = (60_000, 3_600_000)
_BUSIEST = 2.6  # a little above the largest value of `activity`
_FIRST_GUESS, _GUESS_WEIGHT = 9.0, 200  # impressions of a visit, and how many visits that guess counts as
_ID_ROWS = 1_000_000  # user ids written at a time


def simulate(config: SimulatorConfig, out: Path, progress: Callable[[float], None] | None = None) -> SimulationSummary:
    """Writes a folder in the KuaiLive-M3 layout with the project's additions.

    Args:
        config: Size and seed.
        out: Folder to create. It appears once everything is written.
        progress: Called with the share done, 0 to 1, now and then.

    Raises:
        ValueError: `out` exists and isn't an empty folder.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    with FolderWriter(out) as writer:
        simulation = _Simulation(config, writer)
        begin = config.start_ms
        while begin < config.end_ms:
            end = min(begin + simulation.block_ms, config.end_ms)
            simulation.run_block(begin, end)
            if progress is not None:
                progress((end - config.start_ms) / (config.end_ms - config.start_ms))
            begin = end
        simulation.finish()
    log = simulation.log
    rows = {TABLES[name].path.replace("{part}", "*"): count for name, count in writer.rows.items()}
    return SimulationSummary(
        rows=rows,
        events=log.events + simulation.room_events,
        impressions=log.impressions,
        rooms=writer.rows["room"],
        rates=log.rates(),
        bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        wall_seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
    )


class _Simulation:
    """State of a run: the platform, and rows that wait for their time."""

    def __init__(self, config: SimulatorConfig, writer: FolderWriter) -> None:
        self._config, self._writer = config, writer
        # Independent streams: the rooms of a seed don't depend on how many users watch them.
        platform, people, rooms, visits, actions, texts, noise = (
            np.random.default_rng(seed) for seed in np.random.SeedSequence(config.seed).spawn(7)
        )
        behaviour = config.behaviour
        self._states = ContentStates(platform)
        catalogue = Catalogue(platform)
        self._authors = Authors(config.authors, self._states, behaviour, platform)
        users = Users(config.users, self._states, self._authors, behaviour, people, config.taste_change_ms)
        self._rooms = Rooms(self._authors, catalogue, behaviour, config.start_ms, rooms)
        self._visits = Visits(users, self._authors, self._states, self._rooms, behaviour, config.end_ms, visits)
        self._engagement = Engagement(users, self._authors, catalogue, self._rooms, self._visits, behaviour, actions)
        self.log = SessionLog(users, self._rooms, texts)
        self._noise = noise
        self._buffers = {name: TimeOrderedBuffer(table.time) for name, table in TABLES.items() if table.time}
        self._impressions_per_ms = config.users * config.impressions_per_user_day / _DAY_MS
        self.block_ms = int(np.clip(_BLOCK_IMPRESSIONS / (_BUSIEST * self._impressions_per_ms), *_BLOCK_MS))
        self._wanted = self._shown = self._asked = 0.0  # impressions due and shown, visits asked for
        self.room_events = 0
        writer.write("author", self._authors.profile(platform))
        for first in range(0, config.users, _ID_ROWS):
            writer.write("user_id", {"user_id": np.arange(first, min(first + _ID_ROWS, config.users))})

    def run_block(self, begin_ms: int, end_ms: int) -> None:
        """Simulates what starts in [begin_ms, end_ms), and writes what is final: all before `end_ms`."""
        self._buffers["product"].add(self._rooms.advance(end_ms + VISIT_MS))
        # How much a visit shows follows from the process, so their number is steered by what they have shown so far.
        hour = (begin_ms + end_ms) // 2
        self._wanted += self._impressions_per_ms * (end_ms - begin_ms) * float(activity(np.array(hour)))
        per_visit = (self._shown + _GUESS_WEIGHT * _FIRST_GUESS) / (self._asked + _GUESS_WEIGHT)
        visits = max(self._wanted - self._shown, 0.0) / per_visit
        impressions = self._visits.simulate(begin_ms, end_ms, visits)
        self._asked += visits
        self._shown += len(impressions.user)
        sessions = impressions.select(impressions.entered)
        for name, columns in self.log.rows(impressions, sessions, self._engagement.simulate(sessions)).items():
            self._buffers[name].add(columns)
        for name, buffer in self._buffers.items():
            if columns := buffer.take(end_ms):
                if name == "comment":
                    columns = columns | {"content": self.log.texts(len(columns["comment_ts"]))}
                self._writer.write(name, columns)
        self._write_segments(end_ms)
        self._write_rooms(self._rooms.end_ms < end_ms)
        self._rooms.retire(end_ms)

    def finish(self) -> None:
        """Writes the rooms that are live at the end of the log."""
        self._write_rooms(self._rooms.start_ms < self._config.end_ms)

    def _write_segments(self, until_ms: int) -> None:
        rooms = self._rooms
        windows = rooms.take_viewed(until_ms)
        room = rooms.room[windows]
        author = rooms.author[room]
        embeddings = self._states.segment_embeddings(
            self._authors.states[author, rooms.state[windows]],
            self._authors.style[author],
            rooms.heat[windows],
            self._noise,
        )
        live_id = rooms.live_id[room].astype(str)
        segment = np.char.add(np.char.add(live_id, "_"), (windows - rooms.offset[room]).astype(str))
        self._writer.write(
            "segment",
            {
                "live_stream_id": live_id,
                "segment_id": segment,
                "feature_128": pa.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1]),
                "timestamp": rooms.segment_end_ms[windows],
            },
        )

    def _write_rooms(self, which: np.ndarray) -> None:
        rooms = self._rooms
        chosen = np.flatnonzero(which)
        live_id, author, start, end = (
            column[chosen] for column in (rooms.live_id, rooms.author, rooms.start_ms, rooms.end_ms)
        )
        still_live = end >= self._config.end_ms
        self.room_events += len(chosen) + int((~still_live).sum())
        embeddings = self._states.room_embeddings(self._authors.style[author], self._noise)
        self._writer.write(
            "room",
            {
                "live_id": live_id,
                "author_id": author,
                "live_name": np.char.add("Live with author ", author.astype(str)),
                "start_timestamp": start,
                "end_timestamp": pa.array(end, mask=still_live),
                "live_duration": pa.array(end - start, mask=still_live),
            },
        )
        self._writer.write(
            "room_embedding",
            {
                "live_id": live_id,
                "embedding": pa.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1]),
            },
        )
        self._writer.write("room_id", {"live_id": live_id})
