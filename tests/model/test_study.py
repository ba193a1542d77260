"""A study's cells: finished ones are read back, interrupted ones go on, others' files are refused."""

from __future__ import annotations

import math
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import ModelConfig
from model.data.protocol import split_targets
from model.outcome import Outcome
from model.study import Cell, Study
from model.train import Progress
from tests.conftest import Tiny, tiny_config


def quick(**model: object) -> Cell:
    config = replace(tiny_config(**model), min_item_count=5, taste_width=2)
    return Cell("quick", replace(config, protocol=replace(config.protocol, train_targets=5)))


def test_a_finished_cell_is_read_and_not_trained_again(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    first = Study(tiny.log, tmp_path, lambda text, progress: said.append(text)).run(quick())
    assert any("training" in text for text in said) and 0.5 < first.figures["auc"] < 1
    assert first.figures["num_rows"] == len(first.probability) == len(first.label) == len(first.user)
    said.clear()
    again = Study(tiny.log, tmp_path, lambda text, progress: said.append(text)).run(quick())
    assert said == [] and again.figures == first.figures
    np.testing.assert_array_equal(again.probability, first.probability)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick.json", "quick.npz"]


def test_a_figure_that_does_not_exist_is_read_back_as_that(tiny: Tiny, tmp_path: Path) -> None:
    def run() -> Outcome:
        return Study(tiny.log, tmp_path, lambda text, progress: None).run(replace(quick(), kind="counts"))

    run()
    text = (tmp_path / "quick.json").read_text()
    (tmp_path / "quick.json").write_text(re.sub(r'"auc_never_seen": [0-9.]+', '"auc_never_seen": null', text))
    assert math.isnan(run().figures["auc_never_seen"])


def test_a_cell_of_another_configuration_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    Study(tiny.log, tmp_path, lambda text, progress: None).run(quick())
    with pytest.raises(ValueError, match=r"quick\.json is of another configuration"):
        Study(tiny.log, tmp_path, lambda text, progress: None).run(quick(longest=20))


def test_a_cell_of_other_targets_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    counts = replace(quick(), kind="counts")
    Study(tiny.log, tmp_path, lambda text, progress: None).run(counts)
    given = Study(tiny.log, tmp_path, lambda text, progress: None, lambda config: split_targets(tiny.log, config.protocol))
    with pytest.raises(ValueError, match=r"quick\.json .*targets is 'drawn' there, 'given' here"):
        given.run(counts)


def test_a_baseline_does_not_depend_on_what_only_models_read(tiny: Tiny, tmp_path: Path) -> None:
    def run(**model: object) -> Outcome:
        cell = Cell("counts", replace(quick(**model).config, epochs=int(1 + len(model))), "counts")
        return Study(tiny.log, tmp_path, lambda text, progress: None).run(cell)

    first = run()
    assert run(kept=9, feature_bins=3).figures == first.figures
    with pytest.raises(ValueError, match=r"counts\.json is of another configuration"):
        run(longest=20)


def test_an_interrupted_cell_goes_on_to_the_same_answer(tiny: Tiny, tmp_path: Path) -> None:
    whole = Study(tiny.log, tmp_path / "whole", lambda text, progress: None).run(quick())

    def interrupt(text: str, progress: Progress | None) -> None:
        if progress is not None and progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Study(tiny.log, tmp_path / "cut", interrupt).run(quick())
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["quick.checkpoint"]
    steps: list[int] = []
    resumed = Study(tiny.log, tmp_path / "cut", lambda text, progress: steps.extend([progress.step] if progress else [])).run(quick())
    assert steps[0] > 1
    np.testing.assert_array_equal(resumed.probability, whole.probability)


def test_the_same_test_rows_whatever_the_length(tiny: Tiny, tmp_path: Path) -> None:
    one = Study(tiny.log, tmp_path, lambda text, progress: None).run(Cell("a", quick().config))
    other = Study(tiny.log, tmp_path, lambda text, progress: None).run(Cell("b", quick(longest=20).config))
    np.testing.assert_array_equal(one.user, other.user)
    np.testing.assert_array_equal(one.label, other.label)
    assert (one.probability != other.probability).any()
    assert ModelConfig().longest is None


def test_boosting_of_few_rows_is_no_constant(tiny: Tiny, tmp_path: Path) -> None:
    config = quick().config
    cell = Cell("gbdt", replace(config, protocol=replace(config.protocol, train_targets=1)), "gbdt")
    done = Study(tiny.log, tmp_path, lambda text, progress: None).run(cell)
    assert len(np.unique(done.probability)) > 10 and done.figures["auc"] > 0.6
