"""Hooks of mkdocs: the pages beside docs/ and the examples join the site, and links lead to where they stand in it."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

_ROOT = Path(__file__).parents[1]
# Where what lies outside docs/ stands in the site.
_PAGES = {name: f"project/{name}" for name in ("README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md")}
_EXAMPLES = {f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted(_ROOT.glob("examples/*.py"))}
_FOLDERS = {"docs/decisions": "index.md#decisions", "keras_models": "layers.md"}
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files, config):
    for source, place in _PAGES.items():
        files.append(File.generated(config, place, content=(_ROOT / source).read_text()))
    for source, place in _EXAMPLES.items():
        content = f"# {source}\n\n```python\n{(_ROOT / source).read_text()}```\n"
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    place = page.file.src_uri
    sources = {target: source for source, target in _PAGES.items()}
    folder = posixpath.dirname(sources.get(place, f"docs/{place}"))

    def moved(match):
        text, target, anchor = match[1], match[2], match[3] or ""
        source = posixpath.normpath(posixpath.join(folder, target))
        if source.startswith("docs/") and source not in _FOLDERS:
            found = source.removeprefix("docs/")
        else:
            found = _PAGES.get(source) or _EXAMPLES.get(source) or _FOLDERS.get(source)
        if found is None:
            return text  # a file that isn't on the site
        return f"[{text}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{anchor})"

    return markdown if place in _EXAMPLES.values() else _LINK.sub(moved, markdown)
