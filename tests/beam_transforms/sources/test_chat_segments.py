from pathlib import Path

import numpy as np
import pytest

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.chat_segments import ChatSegments
from beam_transforms.sources.source import SourceError

HEADER = "session_id,date,offset_s,user,emotes\n"
DAY = 1_522_022_400_000
"""2018-03-26T00:00:00Z in milliseconds."""

CUT = DAY + 20 * WINDOW_MS
LIVE_CHAT = Path(__file__).parents[3].parent / "shared" / "data" / "live_chat"


def message(second, emotes, session=7, date="2018-03-26"):
    return f"{session},{date},{second},5,{emotes}\n"


def read(folder, **arguments):
    batches = list(ChatSegments(folder, **{"fit_before_ms": CUT, "width": 3, **arguments}).read())
    rows = [(row["live_id"], row["timestamp_ms"]) for batch in batches for row in batch.to_pylist()]
    return rows, np.concatenate([batch["embedding"].flatten().to_numpy() for batch in batches]).reshape(len(rows), -1)


def log():
    """Windows of LUL, of Kappa, of both and of PogChamp before the cut; the same and news behind it."""
    rows = []
    for window, emotes in enumerate(["LUL", "Kappa", "LUL Kappa", "PogChamp", "LUL LUL", "Kappa"] * 3):
        rows.append(message(window * 30 + 1, emotes))
    rows += [message(700, "LUL"), message(731, "Kappa"), message(761, "monkaS"), message(791, "monkaS LUL")]
    return rows


def test_a_window_with_an_emote_is_a_segment_that_its_emotes_describe(tmp_path, write):
    rows = [message(0, "LUL", session=8, date="2018-03-27"), message(5, ""), message(29.9, ""), message(31, "Kappa")]
    write("chat.csv", HEADER + "".join([*log(), *rows]) + "damaged\n")
    found, vectors = read(tmp_path)
    windows = [*range(18), 23, 24, 25, 26]
    assert found == [
        *((7, DAY + (window + 1) * WINDOW_MS - 1) for window in windows),
        (8, DAY + 86_400_000 + WINDOW_MS - 1),
    ]
    vectors = dict(zip([*windows, 99], vectors, strict=True))
    np.testing.assert_allclose(vectors[0], vectors[23], atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[99], atol=1e-6)
    # 1: a Kappa before the cut; window 1 got a second one. Its direction is what counts.
    np.testing.assert_allclose(vectors[5], vectors[24], atol=1e-6)
    similar = vectors[0] @ vectors[2] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[2])
    assert 0.3 < similar < 0.95
    assert abs(vectors[0] @ vectors[3]) < 1e-5
    # An emote that only the later time has says nothing.
    np.testing.assert_array_equal(vectors[25], np.zeros(3))
    np.testing.assert_allclose(vectors[26], vectors[0], atol=1e-6)


def test_nothing_behind_the_cut_is_in_a_description(tmp_path, write):
    write("chat.csv", HEADER + "".join(log()))
    found, before = read(tmp_path)
    write(
        "chat.csv", HEADER + "".join([*log(), *(message(900 + 30 * n, "Kappa PogChamp new" * n) for n in range(1, 20))])
    )
    later, after = read(tmp_path)
    assert later[: len(found)] == found
    np.testing.assert_array_equal(after[: len(found)], before)


def test_the_order_of_messages_and_files_changes_nothing(tmp_path, write):
    write("chat.csv", HEADER + "".join(log()))
    found, before = read(tmp_path)
    rows = log()
    write("chat.csv", HEADER + "".join(rows[::-2]))
    write("a_chat.csv", HEADER + "".join(rows[-2::-2]))
    again, after = read(tmp_path)
    assert again == found
    np.testing.assert_array_equal(after, before)


def test_a_description_wider_than_there_are_emotes_ends_in_zeros(tmp_path, write):
    write("chat.csv", HEADER + "".join(log()))
    _, narrow = read(tmp_path)
    _, wide = read(tmp_path, width=5)
    np.testing.assert_array_equal(wide[:, 3:], 0)
    np.testing.assert_allclose(wide[:, :3], narrow, atol=1e-5)


def test_without_emotes_before_the_cut_there_is_nothing_to_fit(tmp_path, write):
    write("chat.csv", HEADER + "".join(log()))
    with pytest.raises(SourceError, match=f"of 22 segments with emotes, none ended before {DAY}"):
        read(tmp_path, fit_before_ms=DAY)
    write("chat.csv", HEADER.replace(",emotes", "") + "7,2018-03-26,5,5\n")
    with pytest.raises(SourceError, match="of 0 segments"):
        read(tmp_path)


def test_a_width_of_nothing_is_an_error(tmp_path, write):
    write("chat.csv", HEADER)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        ChatSegments(tmp_path, CUT, width=0)


@pytest.mark.slow
def test_real_chat_is_described():
    if not LIVE_CHAT.is_dir():
        pytest.skip(f"needs the real chat log in {LIVE_CHAT}; put the folder there and run this test again")
    cut = 1_640_995_200_000  # 2022
    rows, vectors = read(LIVE_CHAT, fit_before_ms=cut, width=64)
    assert len(rows) == len(set(rows)) == 258_104
    assert rows == sorted(rows)
    assert np.isfinite(vectors).all()
    early = np.array([time < cut for _, time in rows])
    assert 0 < early.sum() < len(rows)
    # Every emote of the time before the cut is known.
    assert (np.abs(vectors[early]).sum(axis=1) > 0).all()
