"""Makes our docstrings readable in the API reference."""

import re
import textwrap

import griffe

_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_RETURNS = re.compile(r"^Returns:\n((?:    .*(?:\n|\Z)|\n(?=    ))+)", re.MULTILINE)


class ReadableDocstrings(griffe.Extension):
    """Fences doctests, which Markdown would take for quotations; has no list of one item for what is returned."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            text = _DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", obj.docstring.value)
            obj.docstring.value = _RETURNS.sub(lambda match: f"**Returns:** {textwrap.dedent(match[1])}", text)
