"""Opens a source of events by its name."""

from pathlib import Path

from beam_transforms.sources.chat_log import ChatLogSource
from beam_transforms.sources.kuailive import KuaiLiveSource
from beam_transforms.sources.kuailive_m3 import KuaiLiveM3Source
from beam_transforms.sources.source import Source, SourceError

SOURCES: dict[str, type[ChatLogSource] | type[KuaiLiveSource] | type[KuaiLiveM3Source]] = {
    "kuailive_m3": KuaiLiveM3Source,
    "kuailive": KuaiLiveSource,
    "chat_log": ChatLogSource,
}


def open_source(name: str, folder: Path) -> Source:
    """Opens the source `name`, one of `SOURCES`, on a folder.

    Raises:
        SourceError: If there is no such source, or the folder doesn't hold what it reads.
    """
    if name not in SOURCES:
        raise SourceError(f"there is no source {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name](Path(folder))
