import pytest

from beam_transforms.sources.kuailive import KuaiLiveSource
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.source import MAX_TEXT, DeadLetter, SourceError


def test_a_name_opens_its_source(tmp_path, write):
    write("click.csv", "user_id,live_id,streamer_id,timestamp,watch_live_time\n")
    assert isinstance(open_source("kuailive", str(tmp_path)), KuaiLiveSource)


def test_an_unknown_name_is_an_error_that_lists_the_sources(tmp_path):
    with pytest.raises(SourceError, match="no source 'kuai'; there are kuailive_m3, kuailive, chat_log"):
        open_source("kuai", tmp_path)


def test_the_text_of_a_dead_letter_is_cut():
    assert DeadLetter("a.csv", 1, "why", "x" * 5000).text == "x" * MAX_TEXT
