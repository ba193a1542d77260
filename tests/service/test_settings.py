"""Settings are read from the environment, and nonsense stops the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.app import create_app, open_store
from service.behavior_store import StoreError
from service.settings import Settings


def test_the_environment_sets_values_and_what_is_not_ours_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARE_QUEUE_LENGTH", "7")
    monkeypatch.setenv("DARE_OF_ANOTHER_PROGRAM", "x")
    assert Settings().queue_length == 7
    assert Settings(queue_length=8).queue_length == 8


def test_an_unknown_name_given_in_code_is_refused() -> None:
    with pytest.raises(ValidationError, match="queue_lenght"):
        Settings(queue_lenght=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 65_536), ("workers", 0), ("max_candidates", 0), ("body_timeout_s", 0), ("queue_wait_ms", "soon"), ("drain_s", -1)],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_in_process_stores_refuse_more_than_one_worker() -> None:
    with pytest.raises(ValueError, match="workers is 2"):
        create_app(Settings(workers=2))


@pytest.mark.parametrize("url", ["", "memory", "file:", "redis://", "redis://h:x", "redis://h/x", "rediss://h", "FILE:/tmp"])
def test_unknown_stores_are_refused_by_name(url: str) -> None:
    with pytest.raises(StoreError, match=repr(url)):
        open_store(url)


def test_stores_are_opened_by_url(tmp_path: Path) -> None:
    open_store("memory:").close()
    store = open_store(f"file:{tmp_path}/below")
    assert (tmp_path / "below" / "behaviors.log").exists()
    store.close()
