import csv
import gzip
import io
import tracemalloc
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables import csv_reader
from beam_transforms.sources.tables.csv_blocks import MAX_RECORD_BYTES
from beam_transforms.sources.tables.csv_reader import csv_header, read_csv


def read(path, columns=("a", "c")):
    """Rows as (line, value, ...) in bytes, and dead letters as (line, reason, text)."""
    rows, letters = [], []
    for item in read_csv(path, columns):
        if isinstance(item, DeadLetter):
            assert item.file == str(path)
            letters.append((item.line, item.reason, item.text))
        else:
            values = zip(*(item.columns[name].to_pylist() for name in columns), strict=True)
            rows += [(item.locate(row)[0], *value) for row, value in enumerate(values)]
    return rows, letters


def test_only_the_named_columns_are_given_with_the_lines_they_start_on(write):
    path = write("t.csv", 'a,b,c\n1,x,2\n\n"3","y\n,""z""","4\n"\r\n\r\n5,,6')
    assert read(path) == ([(2, b"1", b"2"), (4, b"3", b"4\n"), (8, b"5", b"6")], [])


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_file_with_a_byte_order_mark_and_spaces_in_its_header(write, name):
    path = write(name, "\ufeffa, c \r\n1,2\r\n")
    assert csv_header(path) == ["a", "c"]
    assert read(path) == ([(2, b"1", b"2")], [])


@pytest.mark.parametrize("content", ["a,b,c", "a,b,c\n", "a,b,c\r\n\r\n"])
def test_a_file_of_only_a_header_has_no_rows(write, content):
    path = write("t.csv", content)
    assert csv_header(path) == ["a", "b", "c"]
    assert read(path) == ([], [])


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_an_empty_file_has_no_header(write, name):
    path = write(name, "")
    assert csv_header(path) is None
    assert read(path) == ([], [])


def test_a_row_with_another_number_of_columns_is_a_dead_letter(write):
    path = write("t.csv", 'a,b,c\n1,2\n1,2,3\n1,"2\n",3,4\n4,5,6\n')
    rows, letters = read(path)
    assert rows == [(3, b"1", b"3"), (6, b"4", b"6")]
    assert letters == [
        (2, "2 columns instead of the header's 3", "1,2"),
        (4, "4 columns instead of the header's 3", '1,"2\n",3,4'),
    ]


def test_bytes_that_are_not_utf8_are_kept_and_stop_nothing(write):
    path = write("t.csv", b"a,b,c\n1,2,\xff\xfe\n3,\xe4\n4,\xe4,5\n")
    rows, letters = read(path)
    assert rows == [(2, b"1", b"\xff\xfe"), (4, b"4", b"5")]
    assert letters == [(3, "2 columns instead of the header's 3", "3,\ufffd")]


def test_reading_resumes_behind_a_broken_quotation(write):
    path = write("t.csv", 'a,b,c\n1,2,3\n4,"5,6\n7,8,9\n10,"x",12\n13,"x" y,15\n16,17,18\n')
    rows, letters = read(path)
    assert [row[0] for row in rows] == [2, 4, 5, 7]
    assert [(line, text) for line, _, text in letters] == [(3, '4,"5,6'), (6, '13,"x" y,15')]
    assert all(reason.startswith("not a CSV record: ") for _, reason, _ in letters)


def test_a_quote_within_a_field_is_a_character(write):
    assert read(write("t.csv", 'a,b,c\n1,x,5" screen\n')) == ([(2, b"1", b'5" screen')], [])


def test_a_quotation_open_at_the_end_costs_one_line(write):
    rows, letters = read(write("t.csv", 'a,b,c\n1,2,"3\n4,5,6\n'))
    assert rows == [(3, b"4", b"6")]
    assert [(line, text) for line, _, text in letters] == [(2, '1,2,"3')]


def test_a_quotation_that_never_closes_does_not_swallow_the_file(write):
    lines = [f"{row},x,{row}" for row in range(200_000)]
    lines[1000] = '1000,"x,1000'
    with mock.patch.object(csv_reader, "BLOCK_BYTES", 500_000):
        rows, letters = read(write("t.csv", "a,b,c\n" + "\n".join(lines)))
    assert [row[1] for row in rows] == [b"%d" % row for row in range(200_000) if row != 1000]
    assert [(line, text) for line, _, text in letters] == [(1002, '1000,"x,1000')]


def test_a_line_without_end_is_one_dead_letter_in_bounded_memory(write):
    size = 30 << 20
    path = write("t.csv.gz", b"a,b,c\n1,2,3\n" + b"x" * size + b"\n4,5,6\n")
    with mock.patch.object(csv_reader, "BLOCK_BYTES", 1 << 20):
        tracemalloc.start()
        rows, letters = read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert rows == [(2, b"1", b"3"), (4, b"4", b"6")]
    assert letters == [(3, f"the line is longer than {MAX_RECORD_BYTES} bytes", "x" * 1000)]
    assert peak < size / 2


def test_a_truncated_gzip_is_read_up_to_the_break(write, tmp_path):
    whole = "a,b,c\n" + "".join(f"{row},{row * 7919 % 1000003},{row}\n" for row in range(50_000))
    path = write("t.csv.gz", whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows, letters = read(path)
    assert 10_000 < len(rows) < 40_000
    assert [row[1] for row in rows] == [b"%d" % row for row in range(len(rows))]
    ((line, reason, text),) = letters
    assert line == len(rows) + 2
    read_bytes = sum(len(part) + 1 for part in whole.split("\n")[: len(rows) + 1]) + len(text)
    assert "truncated or damaged (Compressed file ended before" in reason
    assert f"after {read_bytes} bytes of content, in line {line}; the rows from here on are lost" in reason
    assert whole.split("\n")[line - 1].startswith(text)


def test_a_damaged_gzip_is_read_up_to_the_damage(write):
    path = write("t.csv.gz", "a,b,c\n" + "".join(f"{row},{row * 7919 % 1000003},{row}\n" for row in range(50_000)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xff" * 5000
    path.write_bytes(data)
    rows, letters = read(path)
    assert len(rows) > 5_000
    assert len(letters) >= 1
    assert "the gzip stream is truncated or damaged" in letters[-1][1]


def test_a_gzip_of_several_members_is_read_whole(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b,c\n1,2,") + gzip.compress(b"3\n4,5,6\n"))
    assert read(path) == ([(2, b"1", b"3"), (3, b"4", b"6")], [])


@pytest.mark.parametrize("content", [b"a,b", gzip.compress(b"a,b,c\n1,2,3\n")[:12]])
def test_a_gzip_of_which_nothing_can_be_read_is_an_error(tmp_path, content):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"t.csv.gz: can't be read as a CSV file: the gzip stream is truncated or"):
        csv_header(path)


def test_a_file_without_lines_is_an_error(write):
    with pytest.raises(SourceError, match="no line with the names of columns"):
        csv_header(write("t.csv", b"\x00" * (1 << 20)))


def test_a_file_whose_lines_end_otherwise_is_an_error_that_says_so(write):
    path = write("t.csv", b"a,b,c\r1,2,3\r")
    for reading in (csv_header, read):
        with pytest.raises(SourceError, match=r"no line with the names of columns .*lines have to end with \\n or \\r"):
            reading(path)


DIALECTS = st.sampled_from(
    [
        {"lineterminator": "\r\n", "quoting": csv.QUOTE_MINIMAL},
        {"lineterminator": "\r\n", "quoting": csv.QUOTE_ALL},
        {"lineterminator": "\n", "quoting": csv.QUOTE_ALL},
    ]
)
CONTENT = st.text() | st.text(alphabet='a,"\n\r\0 ☃')


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(0), CONTENT, CONTENT), max_size=20),
    dialect=DIALECTS,
    block=st.integers(1, 100),
    name=st.sampled_from(["t.csv", "t.csv.gz"]),
)
def test_whatever_was_written_is_read(write, rows, dialect, block, name):
    file = io.StringIO()
    writer = csv.writer(file, **dialect)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    path = write(name, file.getvalue())
    with mock.patch.object(csv_reader, "BLOCK_BYTES", block):
        found, letters = read(path, ("a", "b", "c"))
    assert letters == []
    assert [row[1:] for row in found] == [(str(a).encode(), b.encode(), c.encode()) for a, b, c in rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(alphabet='a,"\n\r', max_size=60), block=st.integers(1, 50))
def test_whatever_stands_there_nothing_is_lost_and_blocks_do_not_matter(write, content, block):
    path = write("t.csv", b"a,b,c\n" + (content.encode() if isinstance(content, str) else content))
    whole = read(path)
    with mock.patch.object(csv_reader, "BLOCK_BYTES", block):
        rows, letters = read(path)
    assert (rows, sorted(letters)) == (whole[0], sorted(whole[1]))
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")[1:]
    full = {number for number, line in enumerate(lines, 2) if line.strip(b"\r")}
    starts = {row[0] for row in rows} | {letter[0] for letter in letters}
    assert starts <= {number for number, _ in enumerate(lines, 2)}
    # A line that starts nothing lies inside a quotation, which needs a quote before it.
    assert all(any(b'"' in before for before in lines[: number - 2]) for number in full - starts)
