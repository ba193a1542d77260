"""The traffic is made from what the service says, has the promised shape, and is the same for the same seed."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.survey import DAY_S, Population, SurveyError, survey
from loadtest.workload import BEHAVIORS, RECOMMEND, SCORE, Workload, parse_mix, zipf_weights
from tests.loadtest.conftest import ITEMS, NEWEST, USERS, TinyService

POPULATION = Population(("a", "b", "c"), {"a": 100, "b": 200, "c": 300}, tuple(f"i{n}" for n in range(50)))


def drawn(count: int, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    workload = Workload(POPULATION, run_id="run", **({"candidates": 7} | options))
    return [(request.path, json.loads(request.body)) for request in itertools.islice(workload, count)]


def test_the_survey_asks_the_service(service: TinyService) -> None:
    population = survey(service.url, users=10, candidates=500)
    assert population.user_ids == tuple(USERS)
    assert set(population.item_ids) == set(ITEMS)
    assert population.newest["user 3/é"] == NEWEST + 3
    assert population.newest["new"] == NEWEST + 4, "a user without behaviors gets the newest time of all"
    asked_for = {body["user_id"]: body["timestamp"] for path, body in service.asked if path == RECOMMEND}
    assert asked_for["user 3/é"] == NEWEST + 3 + DAY_S


def test_the_survey_takes_users_from_a_file(service: TinyService, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("user 1/é\n\nuser 0/é\nuser 1/é\n", "utf-8")
    assert survey(service.url, 10, 1, file).user_ids == ("user 1/é", "user 0/é")
    with pytest.raises(SurveyError, match="missing: No such file"):
        survey(service.url, 10, 1, tmp_path / "missing")


@pytest.mark.parametrize(("content", "message"), [("", "no user"), ("new\n", "none of the 1 users")])
def test_the_survey_says_what_is_missing(service: TinyService, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "users"
    file.write_text(content)
    with pytest.raises(SurveyError, match=message):
        survey(service.url, 10, 1, file)


def test_the_survey_names_a_service_that_is_not_there() -> None:
    with pytest.raises(SurveyError, match=r"127\.0\.0\.1:1/console/users.*refused"):
        survey("http://127.0.0.1:1", 10, 1)


def test_the_mix_and_the_users_follow_their_shares() -> None:
    requests = drawn(4000)
    path = Counter(path for path, _ in requests)
    assert path[SCORE] / 4000 == pytest.approx(0.8, abs=0.03)
    assert path[RECOMMEND] / 4000 == pytest.approx(0.1, abs=0.03)
    user = Counter(body["user_id"] for path, body in requests if path != BEHAVIORS)
    asked = user.total()
    assert [user[name] / asked for name in "abc"] == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.03)


def test_zipf_weights() -> None:
    np.testing.assert_allclose(zipf_weights(3, 1.0), [6 / 11, 3 / 11, 2 / 11])
    np.testing.assert_allclose(zipf_weights(4, 0.0), [0.25] * 4)


def test_candidates_are_known_items_without_repetition() -> None:
    for _, body in drawn(200, mix="score=1"):
        assert len(body["candidates"]) == len(set(body["candidates"])) == 7
        assert set(body["candidates"]) <= set(POPULATION.item_ids)
    ((_, body),) = drawn(1, mix="score=1", candidates=80)
    assert len(body["candidates"]) == 80, "a small catalogue is asked for with repetitions"


def test_times_are_explicit_and_posted_behaviors_are_the_newest() -> None:
    newest = dict(POPULATION.newest)
    events = []
    for path, body in drawn(2000, mix="score=1,behaviors=1,recommend=1"):
        if path == BEHAVIORS:
            (posted,) = body["behaviors"]
            assert posted["timestamp"] > newest[posted["user_id"]]
            newest[posted["user_id"]] = posted["timestamp"]
            events.append(posted["event_id"])
        else:
            assert body["timestamp"] == newest[body["user_id"]] + DAY_S
    assert len(set(events)) == len(events) > 500
    again = json.loads(Workload(POPULATION, mix="behaviors=1", run_id="again").draw().body)
    assert again["behaviors"][0]["event_id"] not in events, "a second run is not taken for a retry of the first"


def test_the_same_seed_makes_the_same_traffic() -> None:
    assert drawn(100, seed=3) == drawn(100, seed=3) != drawn(100, seed=4)


@pytest.mark.parametrize("text", ["score", "score=-1", "scores=1", "score=nan", "score=inf", "score=0", ""])
def test_a_bad_mix_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="mix"):
        parse_mix(text)
    assert parse_mix("score=3,recommend=1") == {SCORE: 0.75, RECOMMEND: 0.25}


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        drawn(1, candidates=0)
    with pytest.raises(ValueError, match="users must be at least 1, got 0"):
        survey("http://127.0.0.1:1", 0, 1)
