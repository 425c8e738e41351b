"""The documentation, as far as a machine can check it: commands, make's targets, links, and what no file may name."""

import re
import shlex
from pathlib import Path

import click
import pytest

import foresight

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")},
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SEPARATORS = {"&&", "||", ";", "|", "&"}
_UNWANTED = {
    "a package registry's host": re.compile(
        r"\b(?:pypi\.org|pythonhosted\.org|deb\.debian\.org|archive\.ubuntu\.com|ppa\.launchpadcontent\.net"
        r"|repo\.?\d*\.maven\.org|registry\.npmjs\.org)\b"
    ),
    "a path of one machine": re.compile(r"(?<![\w.$}/-])/(?:work|root|farm|home/\w+|tmp/lf)/[\w.]"),
}


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _commands(page: Path) -> list[list[str]]:
    """The words of each command in the page's blocks marked `sh`, without variables set before it and comments."""
    commands = []
    for language, block in _BLOCK.findall(page.read_text()):
        if language != "sh":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word in _SEPARATORS:
                    commands.append(words)
                    words = []
                elif words or not re.fullmatch(r"\w+=.*", word):
                    words.append(word)
    return [words for words in commands if words]


def _parse(words: list[str]) -> None:
    """Parses the arguments of `foresight` without running anything; raises click.UsageError if they don't fit."""
    name, command, rest = "foresight", foresight.main, list(words)
    context = None
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        context = click.Context(command, parent=context, info_name=name)
        name, command, rest = command.resolve_command(context, rest)
    command.make_context(name, rest, parent=context)


def _options(words: list[str]) -> set[str]:
    """What may follow the command, or the command of a group, that the words begin with."""
    command: click.Command = foresight.main
    for word in words:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        if found is None:
            break  # of a group all commands are meant
        command = found
    return {option for parameter in command.params for option in parameter.opts}


def _accepted(words: list[str]) -> None:
    try:
        _parse(words)
    except click.exceptions.Exit:
        return  # --help and --version print and end
    except click.UsageError as error:
        pytest.fail(f"foresight {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_are_accepted(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    # What `make demo` writes isn't there in a clean checkout: the form of a path counts, not whether it exists.
    monkeypatch.setattr(click.Path, "convert", lambda self, value, parameter, context: Path(value))
    for words in _commands(page):
        if Path(words[0]).name == "foresight":
            _accepted(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_targets_are_in_the_makefile(page):
    for words in _commands(page):
        if words[0] == "make":
            named = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert named <= TARGETS, f"make {named - TARGETS}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_options_named_in_the_text_exist(page):
    text = _BLOCK.sub("", page.read_text())
    for span in re.findall(r"`foresight ([a-z][^`\n]*)`", text):
        name, *rest = span.split()
        assert name in foresight.main.commands, f"foresight {name}"
        known = _options([name, *rest])
        named = set(re.findall(r"--[a-z][a-z-]*", " ".join(rest)))
        assert named <= known | {"--help"}, f"foresight {span}: {named - known}"
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in TARGETS, f"make {target}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_somewhere(page):
    for target in _LINK.findall(_BLOCK.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_no_page_is_left_out_of_the_index():
    linked = {
        (ROOT / "docs" / target.partition("#")[0]).resolve()
        for target in _LINK.findall((ROOT / "docs/index.md").read_text())
    }
    missing = [_name(page) for page in PAGES if page not in linked and page.name != "index.md"]
    assert missing == []


def test_files_name_no_registry_and_no_path_of_one_machine():
    found = []
    for path in _project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{_name(path)}:{number}: {what}" for what, pattern in _UNWANTED.items() if pattern.search(line)]
    assert found == []


def _project_files() -> list[Path]:
    """All files but what .gitignore names and this one: git itself may not be installed."""
    ignored = {".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines())}

    def walk(folder: Path) -> list[Path]:
        files = []
        for entry in folder.iterdir():
            if not any(entry.match(pattern) for pattern in ignored):
                files += walk(entry) if entry.is_dir() else [entry]
        return files

    return [path for path in walk(ROOT) if path != Path(__file__)]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["simulate", "--out", "x", "--sede", "3"], "--sede"),
        (["simulate"], "Missing parameter: out"),
        (["simulat", "--out", "x"], "simulat"),
        (["run", "--source", "csv", "--input", "x"], "csv"),
        (["bench", "label-delay", "--sede", "3"], "--sede"),
        (["canary", "decided"], "decided"),
    ],
)
def test_the_check_itself_finds_what_is_wrong(words, complaint):
    with pytest.raises(click.UsageError, match=complaint):
        _parse(words)


def test_the_check_reads_commands_as_a_shell_does(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\nA=1 make demo && foresight rank \\\n  --user 3  # why\n```\n```\nmake nothing\n```\n")
    assert _commands(page) == [["make", "demo"], ["foresight", "rank", "--user", "3"]]
