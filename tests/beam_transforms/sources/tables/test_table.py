import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.table import Column, RowCheck, read_header, read_table
from beam_transforms.sources.tables.value_types import AMOUNT, ID

COLUMNS = (
    Column("room", ID, ("live_id", "live_stream_id")),
    Column("price", AMOUNT, default=1.5),
    Column("seconds", AMOUNT, default=-1.0, required=False),
)
CHEAP = RowCheck("the price should be below 100", lambda rows: rows["price"] < 100)


def read(path, check=None):
    rows, letters = [], []
    for item in read_table(path, COLUMNS, check):
        if isinstance(item, DeadLetter):
            letters.append((item.line, item.reason, item.text))
        else:
            rows += [dict(zip(item, row, strict=True)) for row in zip(*item.values(), strict=True)]
    return rows, letters


@pytest.mark.parametrize("name", ["live_id", "live_stream_id"])
def test_a_column_is_found_by_any_of_its_names_and_others_are_ignored(write, name):
    path = write("t.csv", f"junk,price,{name}\n\xff,2,3\n,,4\n")
    assert read(path) == ([{"room": 3, "price": 2.0}, {"room": 4, "price": 1.5}], [])


def test_an_optional_column_is_read_where_there_is_one(write):
    path = write("t.csv", "live_id,price,seconds\n3,2,9\n3,2,\n")
    assert [row["seconds"] for row in read(path)[0]] == [9.0, -1.0]


def test_a_file_without_content_has_no_rows(write):
    path = write("t.csv", "")
    assert read_header(path) is None
    assert read(path) == ([], [])


def test_missing_columns_are_named_with_what_was_found(write):
    path = write("t.csv", "id,cost\n1,2\n")
    with pytest.raises(SourceError) as raised:
        read(path)
    assert str(raised.value) == (
        f"{path}: lacks the columns ['live_id or live_stream_id', 'price']; it has ['id', 'cost']"
    )


def test_a_bad_row_gives_its_reasons_and_no_values(write):
    path = write("t.csv", "live_id,price\n1,2\nx,y\n3,200\n-4,200\n5,99\n")
    rows, letters = read(path, CHEAP)
    assert [row["room"] for row in rows] == [1, 5]
    identifier, amount = "live_id should be an id (an integer >= 0)", "price should be a number from 0 to 1e+12"
    assert letters == [
        (3, f"{identifier}, got 'x'; {amount}, got 'y'", "x,y"),
        (4, "the price should be below 100", "3,200"),
        (5, f"{identifier}, got '-4'", "-4,200"),
    ]


def test_parquet_rows_are_checked_alike(tmp_path):
    path = tmp_path / "t.parquet"
    rooms = pa.array(["1", "x", None, "4"]).dictionary_encode()
    pq.write_table(pa.table({"live_stream_id": rooms, "price": [2.0, 2.0, 2.0, None]}), path)
    rows, letters = read(path)
    assert rows == [{"room": 1, "price": 2.0}, {"room": 4, "price": 1.5}]
    assert letters == [
        (2, "live_stream_id should be an id (an integer >= 0), got 'x'", "live_stream_id='x', price=2.0"),
        (3, "live_stream_id should be an id (an integer >= 0), got 'None'", "live_stream_id=None, price=2.0"),
    ]


def test_a_parquet_column_of_a_wrong_type_makes_dead_letters(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"live_id": [[1], [2]], "price": [1.0, 2.0]}), path)
    rows, letters = read(path)
    assert rows == []
    assert [letter[0] for letter in letters] == [1, 2]
