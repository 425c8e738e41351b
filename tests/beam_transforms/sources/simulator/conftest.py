import dataclasses
import types

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from beam_transforms.sources.simulator import PRESETS, Behaviour, simulate
from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.catalogue import Catalogue
from beam_transforms.sources.simulator.content_states import ContentStates
from beam_transforms.sources.simulator.engagement import Engagement
from beam_transforms.sources.simulator.rooms import Rooms
from beam_transforms.sources.simulator.users import Users
from beam_transforms.sources.simulator.visits import VISIT_MS, Visits

TINY = dataclasses.replace(PRESETS["tiny"], seed=7)


def read_table(folder, name):
    """One table of a folder as a dict of lists; shards are put together in order."""
    paths = sorted(folder.glob(name))
    assert paths, f"no {name} in {folder}"
    tables = [pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path) for path in paths]
    return pa.concat_tables(tables)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder of the preset `tiny`, seed 7, its configuration and its summary."""
    folder = tmp_path_factory.mktemp("simulator") / "tiny"
    return types.SimpleNamespace(folder=folder, config=TINY, summary=simulate(TINY, folder))


def build_platform(seed):
    """A platform of 3,000 users in the evening, two hours after it opened, and when that is."""
    rng = np.random.default_rng(seed)
    behaviour = Behaviour()
    now = 1_748_887_200_000
    states, catalogue = ContentStates(rng), Catalogue(rng)
    authors = Authors(400, states, behaviour, rng)
    users = Users(3_000, states, authors, behaviour, rng)
    rooms = Rooms(authors, catalogue, behaviour, now - 2 * 3_600_000, rng)
    visits = Visits(users, authors, states, rooms, behaviour, now + 10 * 3_600_000, rng)
    engagement = Engagement(users, authors, catalogue, rooms, visits, behaviour, rng)
    rooms.advance(now + 3_600_000 + VISIT_MS)
    return types.SimpleNamespace(
        users=users, authors=authors, rooms=rooms, visits=visits, engagement=engagement, now=now
    )


@pytest.fixture(scope="session")
def evening():
    """A platform with the impressions, sessions and actions of visits that start within one hour."""
    platform = build_platform(5)
    platform.impressions = platform.visits.simulate(platform.now, platform.now + 3_600_000, 1_500)
    platform.sessions = platform.impressions.select(platform.impressions.entered)
    platform.actions = platform.engagement.simulate(platform.sessions)
    return platform
