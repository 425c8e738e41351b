"""The one place that says what an event, a metric, a task and an example are.

Parser, example writer, TFX schema, model inputs and serving signature are derived from what stands here. Only numpy is
needed to import it.

Shapes, used in every docstring of the project: B examples, T steps of a statistic sequence (oldest first, padding in
front), N statistic metrics, H forecast horizon in steps, K tasks.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

WINDOW_MS = 30_000
"""Length of a statistic window in milliseconds; windows are aligned to the epoch."""

PADDING_ID = -1
"""Stands in id sequences where there is no entry. Ids of users, authors and rooms are >= 0."""

NEVER_S = 30 * 86_400.0
"""Seconds that stand for "has not happened yet" in recency features, and the cap of those features."""


MEMORY_MS = int(NEVER_S * 1000)
"""A user, an author or a pair of them that was silent for longer starts afresh: what was before is forgotten."""

ROOM_MEMORY_MS = 3 * 3_600_000
"""The same for rooms, and for a user in a room. It bounds what a stream has to remember of rooms that are over."""


ENTERED_LAST_MS = "entered_last_ms"
"""Stored beside `entered_authors`: the time of the newest entry."""


SEMANTIC_ID_LENGTH = 100
"""Runs of semantic ids in a sequence (Foresight Prediction, 3.1)."""

PRODUCT_LENGTH = 50
"""Products in a sequence."""

CATEGORIES = (50, 1_000, 5_000)
"""Product categories of level 1, 2 and 3 (LiveForesighter, 2.3)."""


class EventKind(enum.IntEnum):
    """What happened. `value` of an event is in the unit given here, and 1.0 where none is given."""

    EXPOSURE = 1  # the room was shown to the user: an impression
    ENTER = 2
    LEAVE = 3  # value: seconds watched since the entry
    COMMENT = 4  # value: characters
    LIKE = 5
    FOLLOW = 6
    SHARE = 7
    GIFT = 8  # value: price
    ORDER = 9  # value: price
    PRODUCT_CLICK = 10
    CART_CLICK = 11
    SUBSCRIBER_COMMENT = 12  # a COMMENT's author subscribes to the room's author; beside that COMMENT
    MODERATOR_COMMENT = 13  # the COMMENT's author moderates the room; beside that COMMENT
    EMOTE = 14  # beside a COMMENT; value: number of emotes in it
    ROOM_START = 15  # user_id is PADDING_ID
    ROOM_END = 16  # user_id is PADDING_ID


EVENT_COLUMNS: dict[str, str] = {
    "kind": "int8",
    "timestamp_ms": "int64",
    "user_id": "int64",
    "author_id": "int64",
    "live_id": "int64",
    "value": "float32",
}
"""Name -> numpy dtype (and Arrow type of the same name) of the columns of a batch of events, in this order.

`timestamp_ms` is event time, milliseconds since the epoch, UTC.
"""


class Aggregate(enum.Enum):
    """How the events of one kind in one room and window become one number."""

    COUNT = "count"
    SUM = "sum"  # of the events' value
    USERS = "users"  # distinct users in the window
    NEW_USERS = "new_users"  # users whose first such event in the room falls into the window
    PRESENT = "present"  # users in the room at the window's end: entries minus exits so far


@dataclasses.dataclass(frozen=True)
class Metric:
    """One column of a statistic sequence. `group` is one of LiveForesighter's four (section 2.2)."""

    name: str
    group: str
    kind: EventKind
    aggregate: Aggregate = Aggregate.COUNT


@dataclasses.dataclass(frozen=True)
class Task:
    """One output of the ranker: did `kind` follow the impression?

    Attributes:
        kind: The event that makes the label positive.
        description: What a positive label means, in words.
        watch_s: For `LEAVE` only: positive if at least this many seconds were watched within the label window.
        within_s: Seconds after the impression in which the event counts; None leaves that to the label policy.
    """

    name: str
    kind: EventKind
    description: str
    watch_s: float | None = None
    within_s: float | None = None


@dataclasses.dataclass(frozen=True)
class HistoryCounts:
    """A family of point-in-time features: what happened under one key before the impression.

    For each of `kinds`, in order: number of events so far, number within each of `lookbacks_s`, seconds since the last
    one (`NEVER_S` if none). Then for each of `sums`: sum of the events' values so far.
    """

    name: str
    key: tuple[str, ...]
    kinds: tuple[EventKind, ...]
    lookbacks_s: tuple[int, ...] = ()
    sums: tuple[EventKind, ...] = ()

    @property
    def feature_name(self) -> str:
        return f"{self.name}_counts"

    @property
    def last_ms_name(self) -> str:
        return f"{self.name}_last_ms"

    @property
    def memory_ms(self) -> int:
        """After a longer silence under the key, what was before is forgotten."""
        return ROOM_MEMORY_MS if "live_id" in self.key else MEMORY_MS

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the entries of the feature vector, in order."""
        names = []
        for kind in self.kinds:
            name = kind.name.lower()
            names += [f"{name}_count", *(f"{name}_count_{s}s" for s in self.lookbacks_s), f"{name}_age_s"]
        return (*names, *(f"{kind.name.lower()}_sum" for kind in self.sums))

    @property
    def empty(self) -> np.ndarray:
        """The feature vector of a key without any event, float32 of shape (len(columns),)."""
        return np.array([NEVER_S if name.endswith("_age_s") else 0.0 for name in self.columns], dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of an example: `shape` is without the batch dimension, () for a scalar.

    role is one of: "key" (identifies the impression, no model input), "user" and "room" (model inputs; room features
    are a function of room and window only), "context" (model input that depends on both, or on the time of the
    request), "label".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


CONTEXT_COLUMNS = ("room_age_s", "hour_sin", "hour_cos")
"""Entries of the feature `context`: seconds since the room opened, and the UTC time of day on the unit circle."""


_RESERVED = ("heard", "entries", "windows", "runs", "products")
"""Names of the stages' own tables."""

_ROLES: dict[tuple[str, ...], str] = {("user_id",): "user", ("author_id",): "room", ("live_id",): "room"}


@dataclasses.dataclass(frozen=True)
class RankingSchema:
    """Everything that depends on what a source of events can tell: metrics, tasks, histories, lengths."""

    name: str
    metrics: tuple[Metric, ...]
    tasks: tuple[Task, ...]
    histories: tuple[HistoryCounts, ...]
    sequence_length: int = 40
    horizon: int = 3
    entered_authors_length: int = 20
    deduplicate: bool = True
    """Whether events equal in every column are one event. Off where the clock is too coarse to tell."""
    semantic_id_length: int = 0
    """Entries of a room's run-length compressed semantic ids; 0 where the source tells no segments."""
    codes: int = 0
    """Size of the codebook that the semantic ids are of."""
    codebook: str = ""
    """Version of that codebook: semantic ids of different codebooks don't mix."""
    product_length: int = 0
    """Entries of a room's product sequence; 0 where the source tells no products."""
    categories: tuple[int, ...] = ()
    """Number of product categories of level 1, 2 and 3."""

    def __post_init__(self) -> None:
        if bool(self.semantic_id_length) != bool(self.codes) or bool(self.product_length) != (
            len(self.categories) == 3
        ):
            raise ValueError(
                f"semantic_id_length and codes go together, and product_length and three categories; got "
                f"{self.semantic_id_length} and {self.codes}, {self.product_length} and {self.categories}"
            )
        for history in self.histories:
            if history.key[0] != "user_id" and history.key not in (("author_id",), ("live_id",)):
                raise ValueError(
                    f"history {history.name!r} must have a key of user_id (and others), author_id or live_id, "
                    f"got {history.key}"
                )
            if history.name in _RESERVED:
                raise ValueError(f"history {history.name!r} must have another name than {', '.join(_RESERVED)}")
        if not 0 < self.horizon < self.sequence_length:
            raise ValueError(
                f"horizon must be between 1 and sequence_length - 1 = {self.sequence_length - 1}, got {self.horizon}"
            )
        for what, items in (("metrics", self.metrics), ("tasks", self.tasks), ("histories", self.histories)):
            names = [item.name for item in items]
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{what} of schema {self.name!r} must be non-empty with distinct names, got {names}")

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features of an example, in the order in which they are written."""
        steps, metrics, tasks = self.sequence_length, len(self.metrics), len(self.tasks)
        return (
            Feature("user_id", "int64", (), "user"),
            Feature("live_id", "int64", (), "key"),
            Feature("timestamp_ms", "int64", (), "key"),
            Feature("author_id", "int64", (), "room"),
            Feature("statistic_sequence", "float32", (steps, metrics), "room"),
            Feature("statistic_mask", "float32", (steps,), "room"),
            *self._content,
            Feature("entered_authors", "int64", (self.entered_authors_length,), "user"),
            Feature("context", "float32", (len(CONTEXT_COLUMNS),), "context"),
            *(
                Feature(
                    history.feature_name,
                    "float32",
                    (len(history.columns),),
                    _ROLES.get(history.key, "context"),
                )
                for history in self.histories
            ),
            Feature("label", "float32", (tasks,), "label"),
            Feature("label_mask", "float32", (tasks,), "label"),
            Feature("label_weight", "float32", (tasks,), "label"),
        )

    @property
    def _content(self) -> tuple[Feature, ...]:
        """What is known of a room's content: semantic ids and run lengths, products and their categories."""
        features: tuple[Feature, ...] = ()
        if self.semantic_id_length:
            shape = (self.semantic_id_length,)
            features += (
                Feature("semantic_ids", "int64", shape, "room"),
                Feature("run_lengths", "int64", shape, "room"),
            )
        if self.product_length:
            length = self.product_length
            features += (
                Feature("product_ids", "int64", (length,), "room"),
                Feature("product_categories", "int64", (length, 3), "room"),
            )
        return features

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """What a request carries: the inputs of the signature `serving_default`."""
        return tuple(feature for feature in self.features if feature.role in ("user", "room", "context"))

    @property
    def stored(self) -> dict[tuple[str, ...], tuple[Feature, ...]]:
        """What the online store holds: key columns -> features under that key.

        The context follows from `opened_ms`, and the ages of a history from its `last_ms_name`: the time of the last
        event of each of its kinds, then that of its last window with any event; -1 for never. `entered_last_ms`, the
        time of the newest of `entered_authors`, tells when these are forgotten.
        """
        opened_ms = Feature("opened_ms", "int64", (), "room")
        entered_last_ms = Feature(ENTERED_LAST_MS, "int64", (), "stored")
        room = tuple(self.feature(name) for name in ("author_id", "statistic_sequence", "statistic_mask"))
        stored: dict[tuple[str, ...], tuple[Feature, ...]] = {
            ("live_id",): (opened_ms, *room, *self._content),
            ("user_id",): (self.feature("entered_authors"), entered_last_ms),
        }
        for history in self.histories:
            last_ms = Feature(history.last_ms_name, "int64", (len(history.kinds) + 1,), "stored")
            stored[history.key] = (*stored.get(history.key, ()), self.feature(history.feature_name), last_ms)
        return stored

    def feature(self, name: str) -> Feature:
        for feature in self.features:
            if feature.name == name:
                return feature
        raise ValueError(f"schema {self.name!r} has no feature {name!r}; it has {[f.name for f in self.features]}")

    def without(self, kinds: Sequence[EventKind]) -> "RankingSchema":
        """The schema for a source that lacks `kinds`: drops the metrics and tasks that need them."""
        return dataclasses.replace(
            self,
            metrics=tuple(metric for metric in self.metrics if metric.kind not in kinds),
            tasks=tuple(task for task in self.tasks if task.kind not in kinds),
        )


_ENGAGEMENT = (
    EventKind.EXPOSURE,
    EventKind.ENTER,
    EventKind.LIKE,
    EventKind.COMMENT,
    EventKind.FOLLOW,
    EventKind.SHARE,
    EventKind.GIFT,
    EventKind.ORDER,
)

LIVE_SCHEMA = RankingSchema(
    name="live",
    metrics=(
        Metric("exposure", "out_of_room", EventKind.EXPOSURE),
        Metric("audience", "out_of_room", EventKind.ENTER, Aggregate.PRESENT),
        Metric("gmv", "conversion", EventKind.ORDER, Aggregate.SUM),
        Metric("order", "conversion", EventKind.ORDER),
        Metric("gift_value", "conversion", EventKind.GIFT, Aggregate.SUM),
        Metric("gift_count", "conversion", EventKind.GIFT),
        Metric("comment", "interaction", EventKind.COMMENT),
        Metric("like", "interaction", EventKind.LIKE),
        Metric("follow", "interaction", EventKind.FOLLOW),
        Metric("share", "interaction", EventKind.SHARE),
        Metric("product_click", "in_room", EventKind.PRODUCT_CLICK),
        Metric("cart_click", "in_room", EventKind.CART_CLICK),
    ),
    tasks=(
        Task("ctr", EventKind.ENTER, "the user entered the room"),
        Task("evtr", EventKind.LEAVE, "effective view: watched at least 10 seconds", watch_s=10),
        Task("lvtr", EventKind.LEAVE, "long view: watched at least 60 seconds", watch_s=60),
        Task("ltr", EventKind.LIKE, "liked"),
        Task("cmtr", EventKind.COMMENT, "commented"),
        Task("wtr", EventKind.FOLLOW, "followed the author"),
        Task("shtr", EventKind.SHARE, "shared the room"),
        Task("gtr", EventKind.GIFT, "sent a gift"),
        Task("cvr", EventKind.ORDER, "placed an order"),
    ),
    histories=(
        HistoryCounts("user", ("user_id",), _ENGAGEMENT, (3600,), (EventKind.LEAVE, EventKind.GIFT)),
        HistoryCounts("author", ("author_id",), _ENGAGEMENT, (600, 3600), (EventKind.LEAVE, EventKind.GIFT)),
        HistoryCounts("user_author", ("user_id", "author_id"), _ENGAGEMENT, (), (EventKind.LEAVE, EventKind.GIFT)),
        HistoryCounts("user_room", ("user_id", "live_id"), (EventKind.EXPOSURE, EventKind.ENTER)),
    ),
)
"""What the project's own input layout and the simulator give."""

_CHAT = (EventKind.COMMENT, EventKind.EMOTE)

CHAT_SCHEMA = RankingSchema(
    name="chat",
    metrics=(
        Metric("message", "interaction", EventKind.COMMENT),
        Metric("chatter", "out_of_room", EventKind.COMMENT, Aggregate.USERS),
        Metric("new_chatter", "out_of_room", EventKind.COMMENT, Aggregate.NEW_USERS),
        Metric("subscriber_message", "conversion", EventKind.SUBSCRIBER_COMMENT),
        Metric("moderator_message", "interaction", EventKind.MODERATOR_COMMENT),
        Metric("character", "interaction", EventKind.COMMENT, Aggregate.SUM),
        Metric("emote", "interaction", EventKind.EMOTE, Aggregate.SUM),
    ),
    tasks=(Task("cmtr", EventKind.COMMENT, "writes again within the next 60 seconds", within_s=60),),
    histories=(
        HistoryCounts("user", ("user_id",), _CHAT, (86_400,), (EventKind.COMMENT, EventKind.EMOTE)),
        HistoryCounts(
            "user_room", ("user_id", "live_id"), _CHAT, (60, 180, 600, 1800), (EventKind.COMMENT, EventKind.EMOTE)
        ),
    ),
    deduplicate=False,
)
"""What a chat log gives. Its clock ticks in seconds, so two equal messages may both be real: both are kept."""


def schema_to_json(schema: RankingSchema) -> dict[str, Any]:
    """The schema as plain JSON types: written beside every set of examples."""

    def plain(value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return value.name
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return value

    return plain(schema)


def schema_from_json(data: dict[str, Any]) -> RankingSchema:
    """The inverse of `schema_to_json`; raises ValueError on anything that it would not have written."""
    try:
        metrics = tuple(
            Metric(**{**item, "kind": EventKind[item["kind"]], "aggregate": Aggregate[item["aggregate"]]})
            for item in data["metrics"]
        )
        tasks = tuple(Task(**{**item, "kind": EventKind[item["kind"]]}) for item in data["tasks"])
        histories = tuple(
            HistoryCounts(
                item["name"],
                tuple(item["key"]),
                tuple(EventKind[kind] for kind in item["kinds"]),
                tuple(item["lookbacks_s"]),
                tuple(EventKind[kind] for kind in item["sums"]),
            )
            for item in data["histories"]
        )
        known = {"metrics": metrics, "tasks": tasks, "histories": histories, "categories": tuple(data["categories"])}
        return RankingSchema(**{**data, **known})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a ranking schema: {error}; expected what schema_to_json writes") from error
