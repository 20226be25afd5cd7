"""The docs: every command is read by the real parser, every link leads somewhere, every TOML block is TOML.

A command that needs what a laptop may not have ends with one of these comments, in a guide: `# needs a GPU`,
`# needs the network`.
"""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flows.cli import main

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "docs" / f"{name}.md" for name in (
    *("first-edit", "in-an-app", "prompts", "responsible-use", "teachers", "troubleshooting"),
)]  # fmt: skip
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"\s+# needs (a GPU|the network)( and (a GPU|the network))?$")
FOREIGN = {
    "prefect",
    "python",
    "python3",
    "pip",
    "make",
    "export",
    "createdb",
    "for",
    "done",
    "docker",
    "hf",
    "cd",
    "cp",
    "mkdir",
    "curl",
}


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """What stands between fences, with its language."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if language in languages:
            yield text


def lines(page: Path) -> Iterator[str]:
    """Each command, continued lines joined, without the environment's name before it."""
    for text in blocks(page, "", "sh", "bash"):
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            yield line.strip().removeprefix(".venv/bin/")


def commands(page: Path) -> list[str]:
    return [line for line in lines(page) if line.startswith("distillery ")]


def parse(words: list[str]) -> click.Context:
    """As `distillery WORDS` would be read, without running it; files need not be there."""
    command: click.Command = main
    context = click.Context(main, info_name="distillery")
    while isinstance(command, click.Group):
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found is not None, f"there is no verb {name}"
        command = found
    return command.make_context(command.name, words, parent=context)


@pytest.fixture(autouse=True)
def files_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths in the docs are the reader's."""
    parameters = [parameter for verb in main.commands.values() for parameter in verb.params]
    for group in (verb for verb in main.commands.values() if isinstance(verb, click.Group)):
        parameters += [parameter for verb in group.commands.values() for parameter in verb.params]
    for parameter in parameters:
        if isinstance(parameter.type, click.Path):
            monkeypatch.setattr(parameter.type, "exists", False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_read_by_the_parser(page: Path) -> None:
    for line in commands(page):
        if re.search(r" (\||&&|>) ", line):  # the shell's own business
            continue
        try:
            parse(shlex.split(line, comments=True)[1:])
        except click.UsageError as error:
            pytest.fail(f"{page.name}: {line}\n{error.format_message()}")


def test_a_wrong_command_would_be_found() -> None:
    for words in (
        ["run", "sofas"],
        ["run", "sofas", "--ouut", "x"],
        ["evaluate", "edits"],
        ["init", "x", "--edits", "y"],
    ):
        with pytest.raises(click.UsageError):
            parse(words)
    assert parse(["preview", "mine.toml", "--images", "nowhere", "--guidance", "1,2.5"]).params["guidance"] == (
        1.0,
        2.5,
    )


def test_the_examples_in_the_help_are_read_too() -> None:
    for name, verb in main.commands.items():
        examples = re.findall(r"^\s*(distillery .*)$", verb.help or "", re.MULTILINE)
        assert examples, name
        for line in examples:
            parse(shlex.split(line)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_targets_are_there(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in lines(page):
        if found := re.match(r"python3? -m ([\w.]+)", line):
            assert found[1] in ("pytest", "venv") or importlib.util.find_spec(found[1]), line
        if found := re.match(r"make (\w+)", line):
            assert re.search(rf"^{found[1]}:", makefile, re.MULTILINE), line


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_guides_mark_what_a_laptop_may_not_have(page: Path) -> None:
    for line in lines(page):
        if not line or line.startswith("#"):
            continue
        program = line.split()[0]
        assert program == "distillery" or program in FOREIGN, f"{page.name}: what is {program}?"
        remote = re.search(r"hf://|s3://|^hf |--to ", line) or (
            "--teacher " in line and "--teacher miniature" not in line and not line.startswith("distillery init ")
        )
        assert not remote or MARK.search(line), f"{page.name}: mark what it needs: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_is_toml(page: Path) -> None:
    for text in blocks(page, "toml"):
        tomllib.loads(text)
