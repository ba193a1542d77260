"""Run the `dare` command in this process, through its real entry point."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli import main

Dare = Callable[..., "Ran"]
ROOT = Path(__file__).parents[2]


class Ran:
    """One run of the command: exit code, standard output and standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def dare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dare:
    """Runs `dare` with arguments in this process, through its real entry point."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["dare", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Ran(int(end.value.code or 0), printed.out, printed.err)

    return run


def refused(ran: Ran, *named: str) -> None:
    assert ran.code == 2 and ran.out == "", ran.err
    assert "Traceback" not in ran.err
    for text in named:
        assert text in ran.err
