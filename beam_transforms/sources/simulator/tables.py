"""The tables that the simulator writes: columns, types and the column that orders them in time."""

import dataclasses

import pyarrow as pa

from beam_transforms.sources.simulator.content_states import EMBEDDING, ROOM_EMBEDDING


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of the KuaiLive-M3 layout, or of the project's additions to it.

    Attributes:
        path: Below the output folder; `{part}` stands for the shard's number.
        schema: Columns and Arrow types.
        time: Column (ms) by which rows are ordered, None where they aren't.
    """

    path: str
    schema: pa.Schema
    time: str | None = None


def _columns(integers: str, **others: pa.DataType) -> pa.Schema:
    """A schema of int64 columns, named in `integers`, with the types of some of them replaced."""
    return pa.schema([(name, others.get(name, pa.int64())) for name in integers.split()])


_PRODUCT_ACTION = _columns("user_id live_id author_id product_id timestamp price", price=pa.float64())

TABLES: dict[str, Table] = {
    "session": Table(
        "live_interaction.csv",
        _columns(
            "user_id author_id live_id live_play_start_timestamp live_play_end_timestamp p_date live_source_category "
            "enter_live_action is_auto_play is_follow_enter is_follow_leave play_duration like_cnt comment_cnt "
            "send_gift_cnt send_gift_num follow_author_cnt cancel_follow_author_cnt share_cnt report_live_cnt",
            live_source_category=pa.string(),
            enter_live_action=pa.string(),
        ),
        "live_play_start_timestamp",
    ),
    "show": Table("live_show.parquet", _columns("live_id user_id author_id show_timestamp"), "show_timestamp"),
    "comment": Table(
        "live_comment.csv",
        _columns("live_stream_id user_id author_id content comment_ts", content=pa.string()),
        "comment_ts",
    ),
    "like": Table("live_like.csv", _columns("user_id live_id like_timestamp"), "like_timestamp"),
    "share": Table(
        "live_share.csv", _columns("user_id live_id author_id share_timestamp is_share_success"), "share_timestamp"
    ),
    "gift": Table(
        "live_gift.csv",
        _columns("user_id live_id author_id timestamp gift_price", gift_price=pa.float64()),
        "timestamp",
    ),
    "follow": Table("live_follow.csv", _columns("user_id live_id author_id timestamp"), "timestamp"),
    "product": Table(
        "live_product.parquet",
        _columns(
            "live_id author_id product_id category_1 category_2 category_3 start_timestamp price", price=pa.float64()
        ),
        "start_timestamp",
    ),
    "product_click": Table("live_product_click.csv", _PRODUCT_ACTION, "timestamp"),
    "cart_click": Table("live_cart_click.csv", _PRODUCT_ACTION, "timestamp"),
    "order": Table("live_order.csv", _PRODUCT_ACTION, "timestamp"),
    "segment": Table(
        "live_emb_128_ts/live_emb_128_ts_part{part}.parquet",
        pa.schema(
            [
                ("live_stream_id", pa.string()),
                ("segment_id", pa.string()),
                ("feature_128", pa.list_(pa.float32(), EMBEDDING)),
                ("timestamp", pa.int64()),
            ]
        ),
        "timestamp",
    ),
    "room": Table(
        "live_room_meta.parquet",
        _columns("live_id author_id live_name start_timestamp end_timestamp live_duration", live_name=pa.string()),
    ),
    "room_embedding": Table(
        "live_emb_64.parquet",
        pa.schema([("live_id", pa.int64()), ("embedding", pa.list_(pa.float32(), ROOM_EMBEDDING))]),
    ),
    "room_id": Table("live_room_set.csv", _columns("live_id")),
    "author": Table(
        "author_profile.csv",
        _columns(
            "author_id is_photo_author is_live_author gender age_segment fans_user_num",
            gender=pa.string(),
            age_segment=pa.string(),
            fans_user_num=pa.string(),
        ),
    ),
    "user_id": Table("user_id_set.csv", _columns("user_id")),
}
"""By a short name. Every table is written, with a header only where nothing happened."""
