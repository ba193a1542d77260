"""A live server keeps what its OpenAPI document promises, for bodies and parameters made from the document, right and wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.settings import Settings
from tests.conftest import Tiny
from tests.service.conftest import Server, filled_store

OPERATIONS = [
    "GET /v1/users/{user_id}/behaviors",
    "DELETE /v1/users/{user_id}",
    "GET /v1/models",
    "POST /v1/models/{version}:activate",
    "POST /v1/models:rollback",
    "POST /v1/score",
    "POST /v1/score:batch",
    "POST /v1/recommend",
    "POST /v1/behaviors",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
]


@pytest.fixture(scope="module")
def operations(tiny: Tiny) -> Iterator[dict[str, Any]]:
    """The operations of a server that nobody else uses: the cases erase users and change models."""
    running = Server(Settings(artifacts=tiny.artifacts, development=True, max_candidates=64, max_inline_behaviors=64), filled_store(tiny))
    document = schemathesis.openapi.from_url(f"{running.client.base_url}/openapi.json")
    yield {operation.label: operation for operation in (found.ok() for found in document.get_all_operations())}
    running.stop()


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted(OPERATIONS)


SEMANTIC = re.compile(r"explain is at most|64 at most|at most 64|got `float`; got -?[0-9.e+]+|lone surrogates|timestamp .* before")
"""Refusals that a schema cannot express, or does not: JSON Schema counts 5.0 among the integers."""
TAKING_INPUT = [OPERATIONS[0], *OPERATIONS[5:9]]
HOW_OFTEN = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("label", OPERATIONS)
def test_right_requests_are_taken_and_answered_as_described(operations: dict[str, Any], label: str) -> None:
    @given(case=operations[label].as_strategy(generation_mode=GenerationMode.POSITIVE))
    @HOW_OFTEN
    def every(case: schemathesis.Case) -> None:
        answer = case.call()
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
        assert answer.status_code in (200, 404, 409) or SEMANTIC.search(answer.text), answer.text

    every()


@pytest.mark.parametrize("label", TAKING_INPUT)
def test_wrong_requests_are_refused_with_a_problem_document(operations: dict[str, Any], label: str) -> None:
    @given(case=operations[label].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @HOW_OFTEN
    def every(case: schemathesis.Case) -> None:
        answer = case.call_and_validate()
        if answer.status_code == 200:  # a query may hold parameters that nobody knows
            assert case.method == "GET"
            return
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == ["application/problem+json"] and answer.json()["detail"]

    every()
