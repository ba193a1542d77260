"""`dare stages` says everything that the registry knows."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from model.stages.registry import KINDS, stages
from service.cli import main
from service.commands import terminal


def test_json_lists_every_stage_and_how_it_is_served(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dare", "stages", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    found = json.loads(capsys.readouterr().out)
    assert end.value.code in (0, None)
    assert {kind: [entry["name"] for entry in found[kind]] for kind in KINDS} == {kind: [e.name for e in stages(kind)] for kind in KINDS}
    search = {entry["name"]: entry for entry in found["search"]}
    assert search["exact"]["served"] == "compiled kernels" and search["simhash"]["served"] == "ONNX graph"
    assert search["simhash"]["options"] == {"bits": 64, "seed": 0} and "2108.04468" in search["simhash"]["source"]
    assert {entry["served"] for entry in found["objective"]} == {"in training alone"}


def test_a_narrow_table_folds_and_loses_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=shown, width=30))
    terminal.table("figures", [dict.fromkeys(("auc", "gauc", "log loss", "ece", "never seen"), 0.123456)])
    assert "…" not in shown.getvalue()
    assert sum(shown.getvalue().count(digit) for digit in "01234568") == 5 * len("01235")


def test_one_kind_as_a_table_and_an_unknown_kind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, code in ((["--kind", "pooling"], 0), (["--kind", "layers"], 2)):
        monkeypatch.setattr(sys, "argv", ["dare", "stages", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert int(end.value.code or 0) == code
    shown = capsys.readouterr().err
    assert "heads=4, head_width=16, values=True, short=20" in shown and "'layers'" in shown
