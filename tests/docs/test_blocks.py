"""Every command of the documentation is one that the program takes; the quick ones are run."""

import argparse
import contextlib
import dataclasses
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from flashjax import cli, config
from flashjax.stages.model import PACKAGED
from flashjax.tools import sections

ROOT = Path(__file__).parents[2]
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md")
_BLOCK = re.compile(r"(?:<!-- (run|dry) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a page: its language, and whether it is run as it stands."""

    page: str
    number: int
    mark: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command of a shell block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(line, comments=True) for line in lines]
        return [words for words in found if words]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page; what it includes of other files is not looked at."""
    text = page.read_text()
    found = enumerate(_BLOCK.findall(text))
    return [Block(page.name, number, *parts) for number, parts in found if "--8<--" not in parts[2]]


def brought(page: Path) -> set[str]:
    """The files that a page says its reader brings."""
    return {
        name
        for names in re.findall(r"<!-- yours: (.*?) -->", page.read_text())
        for name in names.split()
    }


READ = ("source", "base", "prompts", "calibrate", "measure", "real")  # flags that name files
MADE = ("out", "workdir")
OTHERS = ("git", "cd", "docker", "pip", "source", "export")  # of which the files are looked at


class Parsed(Exception):
    """The flags of a verb, where the program would begin with it."""


def options_of(words):
    """The flags of a verb as the program itself reads them; its config is read, too."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, flags=None, namespace=None):
        raise Parsed(parse(parser, flags, namespace))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as found:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        cli.run(words)
    (options,) = found.value.args
    if getattr(options, "config", None) and is_there(options.config.partition(":")[0]):
        read = config.load(options.config, cli.split_overrides(words)[1])
        sections.check(read, words[0])
    return options


def launched(program, flags):
    """What a launcher prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as told:
        patch.setattr(sys, "argv", [program, *flags])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    assert not ended.value.code
    return told.getvalue()


def is_there(name):
    return (ROOT / name).exists()


def check(words, known):
    """A command; `known` are files that somebody has made or brings, to which its own are added."""
    while words and "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]
    program, *flags = words
    program = program.removeprefix(".venv/bin/")
    if words[-2:] == ["flashjax", "--version"]:
        return
    if program == "flashjax":
        options = options_of(flags)
        read = [name for flag in READ for name in split(getattr(options, flag, None))]
        read += [options.config.partition(":")[0]] if getattr(options, "config", None) else []
        read += [
            word.partition("=")[2]
            for word in flags
            if re.match(r"--config\.(teacher|data)\.source=", word)
        ]
        if flags[0] == "status" or flags[0] == "verify":
            read.append(options.workdir)
        lost = [
            name for name in read if not (is_there(name) or name in PACKAGED or within(name, known))
        ]
        assert not lost, f"nobody has made {lost}"
        known |= {getattr(options, name) for name in MADE if getattr(options, name, None)}
    elif program == "launch/launch.py":
        assert "--dry_run" in flags and launched(program, flags).strip()
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(flags) <= set(targets)
    elif program in ("python", "python3"):
        if flags[0].endswith(".py"):
            assert is_there(flags[0])
    else:
        assert program in OTHERS, f"{program}: what is that?"
        named = re.findall(r"(?:requirements[\w-]*\.txt|launch/\w+)", " ".join(flags))
        assert all(map(is_there, named))


def split(value):
    return str(value).split(",") if value else []


def within(name, known):
    return any(name == root or name.startswith(f"{root}/") for root in known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_taken_and_every_file_is_there_or_made_before(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "launch")
    known = brought(page)
    if page.name not in ("tutorial.md", "README.md"):
        known.add("runs/nano")  # who has read the tutorial
    for block in blocks(page):
        if block.language == "sh":
            for words in block.commands:
                check(words, known)
        else:
            assert block.language == "python"
            compile(block.text, page.name, "exec")


def test_no_page_has_a_block_that_is_not_looked_at():
    """An indented block would be: four spaces after an empty line, outside of a list."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        assert not re.findall(r"\n\n {4}\S.*", text), page.name


RUN = [b for page in PAGES for b in blocks(page) if b.mark == "run"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}-{block.number}")
def test_quick_blocks_do_what_they_say(block, place, monkeypatch, capsys):
    """In one folder, in their order, with two steps where a page has more."""
    monkeypatch.chdir(place)
    text = re.sub(r"steps([ =])(28|50)", r"steps\g<1>2", block.text)
    if block.language == "python":
        exec(compile(text, block.page, "exec"), {})
    else:
        for words in Block(block.page, 0, "", "sh", text).commands:
            if words[1:] != ["--version"]:
                assert cli.main(words[1:]) == 0
    if block.page == "tutorial.md":
        assert (place / "pictures/teacher/0000.png").is_file()


def test_a_command_that_is_wrong_would_be_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    for text in (
        "flashjax sampel",
        "flashjax sample --prompt a --out b --step 4",
        "make demonstration",
    ):
        with pytest.raises((cli.InputError, AssertionError)):
            check(text.split(), set())
    with pytest.raises(AssertionError, match="nobody has made"):
        check("flashjax sample --source runs/unmade/merge --prompt a --out b".split(), set())
