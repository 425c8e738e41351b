"""Turns impressions and actions into rows of the tables."""

import numpy as np
import pyarrow as pa

from beam_transforms.sources.simulator.engagement import Actions
from beam_transforms.sources.simulator.rooms import Rooms
from beam_transforms.sources.simulator.users import Users
from beam_transforms.sources.simulator.visits import Impressions

_PHRASES = (
    "hello everyone", "first!", "so good", "haha", "one more please", "what's the song called?", "love this", "wow",
    "come on, you can do it", "how much is it?", "is there a size L?", "greetings from the night shift", "666",
    "this again?", "louder please", "see you tomorrow", 'they said "never"', "here we go", "太好听了", "主播加油",
    "多少钱?", "再来一首", "🎉🎉🎉", "❤️", "first time here, hi", "the best part is coming", "bravo", "no way", "gg",
)  # fmt: skip
_SOURCES = np.array(["recommend", "nearby", "search", "follow"])
_ENTER_ACTIONS = np.array(["click", "slide", "auto", "unknown"])


class SessionLog:
    """Builds rows and keeps the totals of what it saw.

    Attributes:
        impressions, events: Totals so far; room starts and ends aren't among the events.
    """

    def __init__(self, users: Users, rooms: Rooms, rng: np.random.Generator) -> None:
        self._users, self._rooms, self._rng = users, rooms, rng
        self._phrases = pa.array(_PHRASES)
        self._positives: dict[str, int] = {}
        self.impressions = 0
        self.events = 0

    def rates(self) -> dict[str, float]:
        """Positives per impression by task, 0 where nothing was shown."""
        return {task: count / max(self.impressions, 1) for task, count in self._positives.items()}

    def texts(self, count: int) -> pa.Array:
        """`count` comments."""
        return self._phrases.take(pa.array(self._rng.integers(0, len(self._phrases), count)))

    def rows(
        self, impressions: Impressions, sessions: Impressions, actions: dict[str, Actions]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Columns by table name; `sessions` are the entered ones of `impressions`.

        Updates whom users follow. The comments' text isn't among the columns: see `texts`.
        """
        rooms = self._rooms
        live_id, author = rooms.live_id[sessions.room], rooms.author[sessions.room]
        shown = impressions.select(~impressions.entered)

        def ids(action: Actions) -> dict[str, np.ndarray]:
            return {
                "user_id": sessions.user[action.session],
                "live_id": live_id[action.session],
                "author_id": author[action.session],
                "timestamp": action.timestamp,
            }

        def renamed(action: Actions, **names: str) -> dict[str, np.ndarray]:
            return {names.get(name, name): column for name, column in ids(action).items()}

        counts = {kind: np.bincount(action.session, minlength=len(live_id)) for kind, action in actions.items()}
        tables = {
            "show": {
                "live_id": rooms.live_id[shown.room],
                "user_id": shown.user,
                "author_id": rooms.author[shown.room],
                "show_timestamp": shown.start_ms,
            },
            "session": self._session_rows(sessions, live_id, author, actions, counts),
            "comment": renamed(actions["comment"], live_id="live_stream_id", timestamp="comment_ts"),
            "like": renamed(actions["like"], timestamp="like_timestamp"),
            "share": renamed(actions["share"], timestamp="share_timestamp")
            | {"is_share_success": np.ones(len(actions["share"].session), np.int64)},
            "gift": ids(actions["gift"]) | {"gift_price": actions["gift"].price},
            "follow": ids(actions["follow"]),
        }
        for kind in ("product_click", "cart_click", "order"):
            tables[kind] = ids(actions[kind]) | {"product_id": actions[kind].product, "price": actions[kind].price}
        self._add_totals(impressions, sessions, counts)
        return tables

    def _session_rows(
        self,
        sessions: Impressions,
        live_id: np.ndarray,
        author: np.ndarray,
        actions: dict[str, Actions],
        counts: dict[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        rng, number = self._rng, len(live_id)
        duration = sessions.end_ms - sessions.start_ms
        left = sessions.follows & (duration < 20_000) & (rng.random(number) < 0.01)
        self._users.stop_following(sessions.user[left], author[left])
        followed = actions["follow"].session
        self._users.start_following(sessions.user[followed], author[followed], rng)
        days = sessions.start_ms.astype("datetime64[ms]").astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        month = months.astype(np.int64)
        date = (1970 + month // 12) * 10_000 + (1 + month % 12) * 100 + (days - months).astype(np.int64) + 1
        source = np.where(sessions.from_followed, 3, rng.choice(3, number, p=[0.85, 0.1, 0.05]))
        action = rng.choice(4, number, p=[0.45, 0.45, 0.08, 0.02])
        return {
            "user_id": sessions.user,
            "author_id": author,
            "live_id": live_id,
            "live_play_start_timestamp": sessions.start_ms,
            "live_play_end_timestamp": sessions.end_ms,
            "p_date": date,
            "live_source_category": _SOURCES[source],
            "enter_live_action": _ENTER_ACTIONS[action],
            "is_auto_play": (action == 2).astype(np.int64),
            "is_follow_enter": sessions.follows.astype(np.int64),
            "is_follow_leave": ((sessions.follows | (counts["follow"] > 0)) & ~left).astype(np.int64),
            "play_duration": duration,
            "like_cnt": counts["like"],
            "comment_cnt": counts["comment"],
            "send_gift_cnt": counts["gift"],
            "send_gift_num": counts["gift"],
            "follow_author_cnt": counts["follow"],
            "cancel_follow_author_cnt": left.astype(np.int64),
            "share_cnt": counts["share"],
            "report_live_cnt": (rng.random(number) < 0.0005).astype(np.int64),
        }

    def _add_totals(self, impressions: Impressions, sessions: Impressions, counts: dict[str, np.ndarray]) -> None:
        seconds = (sessions.end_ms - sessions.start_ms) / 1000
        positive = {
            "ctr": np.ones(len(seconds), bool),
            "evtr": seconds >= 10,
            "lvtr": seconds >= 60,
            "ltr": counts["like"] > 0,
            "cmtr": counts["comment"] > 0,
            "wtr": counts["follow"] > 0,
            "shtr": counts["share"] > 0,
            "gtr": counts["gift"] > 0,
            "cvr": counts["order"] > 0,
        }
        for task, hits in positive.items():
            self._positives[task] = self._positives.get(task, 0) + int(hits.sum())
        self.impressions += len(impressions.user)
        self.events += len(impressions.user) + 2 * len(seconds) + sum(int(count.sum()) for count in counts.values())
