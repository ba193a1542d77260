"""Every `dare` command line that the documents show exists, with the options shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from service.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app)


def shown(text: str) -> list[str]:
    """Command lines in code spans and code blocks, up to a comment, a pipe or another command."""
    code = re.findall(r"`([^`\n]+)`", text) + [
        line for block in re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S) for line in block.split("\n")
    ]
    code += re.findall(r"^ {4}(.+)$", text, re.M)
    found = [re.split(r"\s#|&&|\||;", part)[0].strip() for part in code]
    return [line for line in found if re.match(r"dare [a-z]", line)]


def unknown_in(line: str) -> list[str]:
    """The commands and options of `line` that do not exist; alternatives as in `a|b` were cut away, brackets mean nothing."""
    words = re.sub(r"[\[\]]", " ", re.sub(r"'[^']*'|\"[^\"]*\"", "X", line)).split()[1:]
    command = COMMANDS
    while isinstance(command, TyperGroup) and words:
        name = words.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    options = {text for option in command.params for text in (*option.opts, *option.secondary_opts)} | {"--help"}
    return [word for word in (part.split("=")[0] for part in words) if word.startswith("--") and word not in options]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_shown_exist(document: Path) -> None:
    wrong = {line: unknown_in(line) for line in shown(document.read_text())}
    assert {line: names for line, names in wrong.items() if names} == {}


def test_what_does_not_exist_is_found() -> None:
    assert unknown_in("dare no-such --seed 0") == ["no-such"]
    assert unknown_in("dare train --data DIR [--no-such 1]") == ["--no-such"]
    assert shown("Use `dare train --seed 0` and\n```sh\nmake x\ndare serve --port 1   # here\n```\n") == [
        "dare train --seed 0",
        "dare serve --port 1",
    ]
    assert len({line for document in DOCUMENTS for line in shown(document.read_text())}) > 30
