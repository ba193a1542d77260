"""The scoring routes over real HTTP, against the runtime itself."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from urllib.parse import quote

import numpy as np
import pytest

from model.item_hash import hash_item_ids
from model.runtime import Scored, ScoringRuntime
from model.user_state import UserState
from service import scorer
from service.behavior_store import U64
from service.settings import Settings
from tests.conftest import Tiny
from tests.patience import PATIENCE_S
from tests.service.conftest import NOW, Server, filled_store


def test_scores_equal_the_runtime_in_order_with_duplicates(server: Server, tiny: Tiny) -> None:
    user = tiny.log.user_id[0]
    candidates = ["item-3", "item-250", "item-3", "never heard of", "item-17"]
    answer = server.client.post("/v1/score", json={"user_id": user, "candidates": candidates, "timestamp": NOW}).json()
    runtime = ScoringRuntime.load(tiny.artifacts)
    rows = slice(tiny.log.user_start[0], tiny.log.user_start[1])
    state = runtime.prepare(hash_item_ids(tiny.log.item_id)[tiny.log.item[rows]], tiny.log.timestamp[rows])
    expected = runtime.score(state, hash_item_ids(candidates), NOW).click_probability_N
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-6)
    assert answer["scores"][0] == answer["scores"][2]
    assert 3 in answer["unknown_candidates"] and 0 not in answer["unknown_candidates"]
    assert answer["sequence_length"] == answer["sequence_length_used"] == rows.stop - rows.start
    assert answer["degraded"] is False and answer["degraded_reason"] is None
    assert answer["model_version"] == tiny.version and "explanations" not in answer


def test_a_large_request_that_more_threads_take_scores_the_same(server: Server) -> None:
    behaviors = [{"item_id": f"item-{i % 70}", "timestamp": NOW - 1000 + i} for i in range(200)]
    few = [f"item-{i}" for i in range(40)]

    def scores(candidates: list[str]) -> list[float]:
        request = {"behaviors": behaviors, "candidates": candidates, "timestamp": NOW}
        answered: list[float] = server.client.post("/v1/score", json=request).json()["scores"]
        return answered

    # 8,000 pairs, and 800,000.
    assert scores(few * 100) == scores(few) * 100


def test_a_large_request_takes_the_threads_of_requests_that_are_not_there(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "_WORTH_SHARING", 100)
    server = Server(Settings(artifacts=tiny.artifacts, inference_threads=3, threads_per_request=8), filled_store(tiny, 1))
    runtime, taken, scoring, go_on = server.models.active.runtime, list[tuple[int, int]](), Event(), Event()
    real = runtime.score

    def score(state: UserState, candidates: U64, timestamp: int, explain: int, threads: int) -> Scored:
        taken.append((len(candidates), threads))
        if len(candidates) == 10:
            scoring.set()
            assert go_on.wait(PATIENCE_S)
        return real(state, candidates, timestamp, explain, threads)

    def ask(candidates: int, **more: object) -> None:
        request = {"candidates": ["item-1"] * candidates, "timestamp": NOW} | (more or {"user_id": tiny.log.user_id[0]})
        server.client.post("/v1/score", json=request).raise_for_status()

    monkeypatch.setattr(runtime, "score", score)
    try:
        with ThreadPoolExecutor(1) as other:
            ask(9)
            held = other.submit(ask, 10)
            assert scoring.wait(PATIENCE_S)
            ask(8)
            go_on.set()
            held.result()
        ask(7, behaviors=[{"item_id": "item-2", "timestamp": NOW - 1}])
    finally:
        go_on.set()
        server.stop()
    assert taken == [(9, 3), (10, 3), (8, 2), (7, 1)], "all three, with one held two, for a small request one"


def test_inline_behaviors_score_as_stored_ones_whatever_their_order(server: Server, tiny: Tiny) -> None:
    rows = range(int(tiny.log.user_start[1]), int(tiny.log.user_start[2]))
    behaviors = [{"item_id": tiny.log.item_id[tiny.log.item[i]], "timestamp": int(tiny.log.timestamp[i])} for i in rows]
    request = {"candidates": ["item-1", "item-2"], "timestamp": NOW}
    stored = server.client.post("/v1/score", json=request | {"user_id": tiny.log.user_id[1]}).json()["scores"]
    inline = server.client.post("/v1/score", json=request | {"behaviors": behaviors[::-1]}).json()["scores"]
    np.testing.assert_allclose(inline, stored, atol=1e-6)


def test_behaviors_later_than_the_request_are_ignored(server: Server, tiny: Tiny) -> None:
    start = int(tiny.log.user_start[2])
    cut = int(tiny.log.timestamp[start + 30])
    known = int((tiny.log.timestamp[start : tiny.log.user_start[3]] <= cut).sum())
    answer = server.client.post("/v1/score", json={"user_id": tiny.log.user_id[2], "candidates": ["item-1"], "timestamp": cut}).json()
    assert answer["sequence_length_used"] == known
    assert answer["sequence_length"] == tiny.log.user_start[3] - start > known


def test_a_user_never_seen_is_scored_from_the_candidate_alone(server: Server) -> None:
    answer = server.client.post("/v1/score", json={"user_id": "stranger", "candidates": ["item-1", 5]}).json()
    assert answer["sequence_length"] == answer["sequence_length_used"] == 0
    assert all(0 < score < 1 for score in answer["scores"])


def test_integer_ids_are_read_as_decimal_strings(server: Server) -> None:
    one = server.client.post("/v1/score", json={"behaviors": [{"item_id": 12, "timestamp": 5}], "candidates": [12], "timestamp": 10}).json()
    two = server.client.post(
        "/v1/score", json={"behaviors": [{"item_id": "12", "timestamp": 5}], "candidates": ["12"], "timestamp": 10}
    ).json()
    assert one["scores"] == two["scores"]


def test_a_posted_behavior_counts_in_the_very_next_score(server: Server) -> None:
    ask = {"user_id": "buyer", "candidates": ["item-40"], "timestamp": NOW}
    before = server.client.post("/v1/score", json=ask).json()
    posted = {"behaviors": [{"user_id": "buyer", "item_id": "item-40", "timestamp": NOW - 60, "event_id": "e1"}]}
    assert server.client.post("/v1/behaviors", json=posted).json() | {"request_id": ""} == {
        "request_id": "",
        "accepted": 1,
        "duplicates": 0,
    }
    after = server.client.post("/v1/score", json=ask).json()
    assert after["sequence_length"] == before["sequence_length"] + 1
    assert after["scores"][0] > before["scores"][0], "in this data people return to what they took"
    again = server.client.post("/v1/behaviors", json=posted).json()
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert server.client.post("/v1/score", json=ask).json()["scores"] == after["scores"]


def test_each_of_many_callers_reads_what_it_wrote(server: Server) -> None:
    def shop(caller: int) -> None:
        for step in range(1, 16):
            for user in (f"caller-{caller}", "shared"):
                # Of the shared user every second behavior is late, so that epochs change under the other callers.
                time = NOW - (step if user == "shared" and step % 2 else 1000 - step)
                new = {"user_id": user, "item_id": f"item-{step}", "timestamp": time, "event_id": f"{caller}/{step}"}
                posted = server.client.post("/v1/behaviors", json={"behaviors": [new]})
                assert posted.json()["accepted"] == 1, posted.text
            ask = {"candidates": [f"item-{step}"], "timestamp": NOW}
            own = server.client.post("/v1/score", json=ask | {"user_id": f"caller-{caller}"}).json()
            assert own["sequence_length_used"] == step
            shared = server.client.post("/v1/score", json=ask | {"user_id": "shared", "explain": 20}).json()
            assert shared["sequence_length_used"] >= step
            kept = [behavior["timestamp"] for behavior in sorted(shared["explanations"][0], key=lambda b: -b["recency"])]
            assert kept == sorted(kept)

    with ThreadPoolExecutor(6) as callers:
        list(callers.map(shop, range(6)))
    assert server.client.get("/v1/users/shared/behaviors").json()["sequence_length"] == 90


def test_explanations_name_the_kept_behaviors_heaviest_first(server: Server, tiny: Tiny) -> None:
    user = tiny.log.user_id[4]
    answer = server.client.post(
        "/v1/score", json={"user_id": user, "candidates": ["item-9", "item-8"], "timestamp": NOW, "explain": 20}
    ).json()
    length = answer["sequence_length"]
    history = server.client.get(f"/v1/users/{user}/behaviors", params={"limit": 1000}).json()["behaviors"][::-1]
    assert len(answer["explanations"]) == 2
    for explanation in answer["explanations"]:
        weights = [behavior["weight"] for behavior in explanation]
        assert len(weights) == 20 and weights == sorted(weights, reverse=True) and abs(sum(weights) - 1) < 1e-4
        for behavior in explanation:
            assert history[length - behavior["recency"]]["item_id"] == behavior["item_id"]
            assert history[length - behavior["recency"]]["timestamp"] == behavior["timestamp"]


def test_an_unknown_item_is_explained_by_its_hash(server: Server) -> None:
    behaviors = [{"item_id": "mystery", "timestamp": 5}]
    answer = server.client.post("/v1/score", json={"behaviors": behaviors, "candidates": ["item-1"], "timestamp": 9, "explain": 1}).json()
    (kept,) = answer["explanations"][0]
    assert kept["item_id"] is None and kept["item_hash"] == str(hash_item_ids(["mystery"])[0])


def test_a_batch_answers_in_order_each_with_its_own_status(server: Server, tiny: Tiny) -> None:
    good = [{"user_id": tiny.log.user_id[u], "candidates": ["item-1", "item-2"], "timestamp": NOW} for u in (0, 1)]
    bad = {"user_id": "x", "candidates": ["item-1", None]}
    alone = [server.client.post("/v1/score", json=one).json()["scores"] for one in good]
    response = server.client.post("/v1/score:batch", json={"requests": [good[0], bad, good[1], good[0] | {"model_version": "other"}]})
    assert response.status_code == 200 and float(re.findall(r"search;dur=([\d.]+)", response.headers["Server-Timing"])[0]) > 0
    answers = response.json()["answers"]
    assert [answer["status"] for answer in answers] == [200, 422, 200, 409]
    assert [answers[0]["answer"]["scores"], answers[2]["answer"]["scores"]] == alone
    assert "problem" not in answers[0] and "answer" not in answers[1]
    (error,) = answers[1]["problem"]["errors"]
    assert error["pointer"] == "/requests/1/candidates/1" and "null" in error["message"]
    assert answers[3]["problem"]["errors"][0]["pointer"] == "/requests/3/model_version"


def test_models_are_listed(server: Server, tiny: Tiny) -> None:
    answer = server.client.get("/v1/models").json()
    assert answer["models"] == [{"version": tiny.version, "active": True, "roles": ["active"]}] and answer["previous"] is None
    assert answer["as_of"] > 0 and "test" in answer["metrics"]


def test_recommend_is_sorted_distinct_and_can_leave_out_what_was_seen(server: Server, tiny: Tiny) -> None:
    user = tiny.log.user_id[5]
    ask = {"user_id": user, "limit": 30, "timestamp": NOW, "explain": 2}
    answer = server.client.post("/v1/recommend", json=ask).json()
    scores = [item["score"] for item in answer["items"]]
    assert len(scores) == len({item["item_id"] for item in answer["items"]}) == 30 and scores == sorted(scores, reverse=True)
    assert all(len(item["explanation"]) == 2 for item in answer["items"])
    seen = {tiny.log.item_id[i] for i in tiny.log.item[tiny.log.user_start[5] : tiny.log.user_start[6]]}
    fresh = server.client.post("/v1/recommend", json=ask | {"exclude_seen": True, "explain": 0}).json()
    assert fresh["items"] and not seen & {item["item_id"] for item in fresh["items"]}
    same = server.client.post(
        "/v1/score", json={"user_id": user, "candidates": [i["item_id"] for i in answer["items"]], "timestamp": NOW}
    ).json()
    np.testing.assert_allclose(same["scores"], scores, atol=1e-6)


def test_stage_times_and_request_id_travel_in_headers(server: Server) -> None:
    body = {"user_id": "x", "candidates": ["item-1"]}
    response = server.client.post("/v1/score", json=body, headers={"X-Request-ID": "abc-1"})
    assert response.headers["X-Request-ID"] == "abc-1" == response.json()["request_id"]
    times = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"]))
    assert list(times) == ["queue", "store", "prepare", "search", "rank", "total"] and float(times["total"]) > 0
    posted = server.client.post("/v1/behaviors", json={"behaviors": [{"user_id": "timed", "item_id": "item-1", "timestamp": 1}]})
    times = dict(re.findall(r"(\w+);dur=([\d.]+)", posted.headers["Server-Timing"]))
    assert float(times["store"]) > 0 and float(times["search"]) == 0
    unsafe = server.client.post("/v1/score", json=body, headers={"X-Request-ID": "a" * 129})
    assert unsafe.headers["X-Request-ID"] != "a" * 129


def test_deleting_a_user_erases_everything(server: Server, tiny: Tiny) -> None:
    user = tiny.log.user_id[7]
    length = server.client.get(f"/v1/users/{user}/behaviors").json()["sequence_length"]
    assert server.client.delete(f"/v1/users/{user}").json()["erased"] == length > 0
    assert server.client.get(f"/v1/users/{user}/behaviors").json()["behaviors"] == []
    assert server.client.post("/v1/score", json={"user_id": user, "candidates": ["item-1"]}).json()["sequence_length"] == 0
    assert server.client.delete(f"/v1/users/{user}").json()["erased"] == 0


@pytest.mark.parametrize("user", ["a/b", "a/behaviors", "100%", "é ü", "?x=1#y", "a%2Fb"])
def test_any_id_that_can_be_posted_can_be_listed_and_erased(server: Server, user: str) -> None:
    posted = {"behaviors": [{"user_id": user, "item_id": "item-1", "timestamp": 5}]}
    assert server.client.post("/v1/behaviors", json=posted).json()["accepted"] == 1
    path = f"/v1/users/{quote(user, safe='')}"
    listed = server.client.get(f"{path}/behaviors").json()
    assert listed["user_id"] == user and listed["sequence_length"] == 1
    assert server.client.delete(path).json()["erased"] == 1


def test_behaviors_are_listed_newest_first_and_paged_by_time(server: Server, tiny: Tiny) -> None:
    path = f"/v1/users/{tiny.log.user_id[8]}/behaviors"
    first = server.client.get(path, params={"limit": 5}).json()["behaviors"]
    times = [behavior["timestamp"] for behavior in first]
    assert times == sorted(times, reverse=True) and len(times) == 5
    older = server.client.get(path, params={"limit": 5, "before": times[-1]}).json()["behaviors"]
    assert older[0]["timestamp"] < times[-1]


def test_pages_leave_nothing_out_where_behaviors_share_a_time(server: Server) -> None:
    basket = [{"user_id": "basket", "item_id": f"item-{i}", "timestamp": 50 + i // 8} for i in range(23)]
    server.client.post("/v1/behaviors", json={"behaviors": basket})
    pages = [
        server.client.get("/v1/users/basket/behaviors", params={"limit": 5, "skip": skip, "before": 99}).json()["behaviors"]
        for skip in range(0, 30, 5)
    ]
    assert [behavior["item_id"] for page in pages for behavior in page] == [f"item-{i}" for i in range(22, -1, -1)]


def test_the_wrong_model_version_is_a_conflict(server: Server, tiny: Tiny) -> None:
    ask = {"user_id": "x", "candidates": ["item-1"], "model_version": tiny.version}
    assert server.client.post("/v1/score", json=ask).status_code == 200
    refused = server.client.post("/v1/score", json=ask | {"model_version": "dare-other"})
    assert refused.status_code == 409 and "dare-other" in refused.json()["detail"]


def test_probes_metrics_and_documents(server: Server, tiny: Tiny) -> None:
    assert server.client.get("/livez").json() == {"status": "alive"}
    ready = server.client.get("/readyz").json()
    assert ready["status"] == "ready" and ready["model"]["version"] == tiny.version
    for path in ("/livez", "/readyz", "/metrics"):
        head = server.client.head(path)
        assert head.status_code == 200 and head.content == b"", "some probes ask for the head alone"
    server.client.post("/v1/score", json={"user_id": "x", "candidates": ["item-1"]})
    text = server.client.get("/metrics").text
    assert re.search(r'dare_requests_total\{route="/v1/score",status="200"\} [1-9]', text)
    assert 'dare_stage_seconds_count{stage="search"}' in text
    schema = server.client.get("/openapi.json").json()
    assert {"/v1/score", "/v1/recommend", "/v1/behaviors", "/v1/users/{user_id}"} <= set(schema["paths"])
    assert "candidates" in schema["components"]["schemas"]["ScoreRequest"]["properties"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if body := operation.get("requestBody"):
                example = body["content"]["application/json"]["example"]
                assert server.client.post(path, json=example).status_code == 200, "the documented example works"


def every_reference(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in every_reference(inner)]
    return [found for inner in value for found in every_reference(inner)] if isinstance(value, list) else []


def test_every_schema_that_is_referred_to_exists(server: Server) -> None:
    schema = server.client.get("/openapi.json").json()
    references = every_reference(schema)
    assert "#/components/schemas/Explanation" in references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_the_pages_load_nothing_from_elsewhere(server: Server, page: str) -> None:
    answer = server.client.get(page)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    files = re.findall(r'(?:href|src)="(/console/[^"]+)"', answer.text)
    assert len(files) == 2
    files.append("/console/key.js")
    for text in (answer.text, *(server.client.get(path).raise_for_status().text for path in files)):
        assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text)


def test_the_page_can_ask_for_users_and_items(server: Server) -> None:
    items = server.client.get("/console/items", params={"id": ["item-5", "never heard of"]}).json()
    assert items == [{"item_id": "item-5", "text": items[0]["text"]}, {"item_id": "never heard of", "text": {}}]
    assert "Thing 5 é" in items[0]["text"].values()
    assert server.client.get("/console/items", params={"id": ["x"] * 201}).status_code == 422
    assert server.client.get("/console/users?prefix=user-1").json()[0]["user_id"].startswith("user-1")
    users = server.client.get("/console/users").json()
    assert users and users[0]["length"] >= users[-1]["length"]


@pytest.mark.parametrize("budget", [1, 10_000])
def test_a_budget_is_kept_or_said_to_have_run_out(server: Server, budget: int) -> None:
    response = server.client.post("/v1/score", json={"user_id": "x", "candidates": ["item-1"] * 50, "budget_ms": budget})
    assert response.status_code in ((200, 504) if budget == 1 else (200,))
