"""The unmodified tritonclient scores candidates, in every form of its tensors; what it may not send is said in its own words."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.conftest import Tiny
from tests.service.conftest import NOW, Server

CANDIDATES = ["item-3", "item-250", "item-3", "never heard of é", "item-17"]


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    url = server.client.base_url
    made = triton.InferenceServerClient(f"{url.host}:{url.port}")
    yield made
    made.close()


def tensor(name: str, values: list[str], binary: bool, batched: bool = False) -> triton.InferInput:
    shape = [1, len(values)] if batched else [len(values)]
    made = triton.InferInput(name, shape, "BYTES")
    made.set_data_from_numpy(np.array([value.encode() for value in values], dtype=object).reshape(shape), binary_data=binary)
    return made


def inputs(user: str, binary: bool = True, batched: bool = False) -> list[triton.InferInput]:
    return [tensor("user_id", [user], binary, batched), tensor("candidates", CANDIDATES, binary, batched)]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("output", [None, True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_scores_equal_the_services_own(
    client: triton.InferenceServerClient, server: Server, tiny: Tiny, binary_in: bool, output: bool | None, batched: bool
) -> None:
    user = tiny.log.user_id[0]
    outputs = None if output is None else [triton.InferRequestedOutput("scores", binary_data=output)]
    answer = client.infer("dare", inputs(user, binary_in, batched), outputs=outputs, request_id="mine", parameters={"timestamp": NOW})
    own = server.client.post("/v1/score", json={"user_id": user, "candidates": CANDIDATES, "timestamp": NOW}).json()
    scores = answer.as_numpy("scores")
    assert scores.dtype == np.float32 and scores.shape == ((1, 5) if batched else (5,))
    np.testing.assert_allclose(scores.reshape(-1), own["scores"], atol=1e-7)
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "dare", tiny.version)


def test_health_and_metadata(client: triton.InferenceServerClient, tiny: Tiny) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("dare") and client.is_model_ready("dare", tiny.version)
    assert not client.is_model_ready("other") and not client.is_model_ready("dare", "7")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("dare", tiny.version)
    assert metadata["versions"] == [tiny.version] and metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1]}]
    assert [described["name"] for described in metadata["inputs"]] == ["user_id", "candidates"]


def test_a_version_may_be_asked_for(client: triton.InferenceServerClient, tiny: Tiny) -> None:
    assert len(client.infer("dare", inputs("x"), model_version=tiny.version).as_numpy("scores")) == 5
    with pytest.raises(InferenceServerException, match="not served"):
        client.infer("dare", inputs("x"), model_version="other")


def test_a_budget_is_a_timeout_of_microseconds(client: triton.InferenceServerClient) -> None:
    assert len(client.infer("dare", inputs("x"), timeout=60_000_000).as_numpy("scores")) == 5


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ([tensor("user_id", ["u"], True)], "candidates is missing"),
        ([tensor("user_id", ["u", "v"], True), tensor("candidates", ["x"], True)], "one id, got 2"),
        ([tensor("user_id", ["u"], True), tensor("items", ["x"], True)], "items"),
        ([tensor("user_id", ["u"], True), tensor("candidates", ["x" * 129], True)], "xxx"),
        ([tensor("user_id", ["u"], True), tensor("candidates", ["x\x00"], True)], "control characters"),
        ([tensor("user_id", ["u"], True), tensor("candidates", [], True)], "length >= 1"),
    ],
)
def test_errors_reach_the_client_in_words(client: triton.InferenceServerClient, wrong: list[triton.InferInput], named: str) -> None:
    with pytest.raises(InferenceServerException, match=named) as raised:
        client.infer("dare", wrong)
    assert raised.value.status() == "422"


def body(changed: dict[str, Any], behind: bytes = b"", length: str | None = None) -> tuple[bytes, dict[str, str]]:
    user = {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u"]}
    items = {"name": "candidates", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]} | changed
    head = json.dumps({"inputs": [user, {key: value for key, value in items.items() if value is not None}]}).encode()
    return head + behind, {"Inference-Header-Content-Length": str(len(head)) if length is None else length}


def element(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    ("changed", "behind", "status"),
    [
        ({}, b"", 200),
        ({"data": None, "parameters": {"binary_data_size": 10}}, element(b"x") * 2, 200),
        ({}, b"left over", 422),
        ({"shape": [3]}, b"", 422),
        ({"shape": [2, 1]}, b"", 422),
        ({"shape": []}, b"", 422),
        ({"shape": [-2]}, b"", 422),
        ({"shape": [2**62, 2**62]}, b"", 422),
        ({"datatype": "FP32"}, b"", 422),
        ({"data": [1.5, None]}, b"", 422),
        ({"data": [["x", "y"]], "shape": [1, 2]}, b"", 200),
        ({"data": [[["x"]], "y"]}, b"", 422),
        ({"parameters": {"binary_data_size": 0}}, b"", 422),
        ({"data": None}, b"", 422),
        ({"data": None, "parameters": {"binary_data_size": 99}}, element(b"x") * 2, 422),
        ({"data": None, "parameters": {"binary_data_size": 9}}, element(b"x") * 2, 422),
        ({"data": None, "parameters": {"binary_data_size": 10}}, struct.pack("<I", 2**32 - 1) + b"xxxxxx", 422),
        ({"data": None, "parameters": {"binary_data_size": 10}}, element(b"\xff") * 2, 422),
        ({"data": None, "parameters": {"binary_data_size": -1}}, b"", 422),
    ],
)
def test_hostile_tensors_never_cost_a_5xx(server: Server, changed: dict[str, Any], behind: bytes, status: int) -> None:
    content, headers = body(changed, behind)
    response = server.client.post("/v2/models/dare/infer", content=content, headers=headers)
    assert response.status_code == status, response.text
    if status != 200:
        document = response.json()
        assert response.headers["content-type"] == "application/problem+json" and document["error"] == document["detail"]


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "1e2", "", "5"])
def test_hostile_header_lengths(server: Server, length: str) -> None:
    content, headers = body({}, length=length)
    response: httpx.Response = server.client.post("/v2/models/dare/infer", content=content, headers=headers)
    assert response.status_code in (400, 422) and response.json()["error"]


def test_unknown_paths_below_v2_answer_in_its_words_too(server: Server) -> None:
    response = server.client.get("/v2/repository/index")
    assert response.status_code == 404 and response.json()["error"] == response.json()["detail"]
