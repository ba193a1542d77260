"""The Open Inference Protocol, version 2, with its binary tensor extension: `tritonclient` and KServe clients score candidates unchanged.

Inputs `user_id` BYTES [1] and `candidates` BYTES [N], output `scores` FP32 [N]; `[1, 1]` and `[1, N]` are taken too. Request parameters:
`timestamp` (unix s), `budget_ms`, `timeout` (Triton's, µs, rounded up to the budget), `binary_data_output`.
"""

from __future__ import annotations

import importlib.metadata
import math
import struct
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import APIRouter
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.auth import Callers
from service.call import Call
from service.errors import Problem, shown
from service.metrics import Metrics
from service.models import Models
from service.request_body import read_body
from service.schemas import ScoreRequest, decode, wire_problem
from service.scorer import Scorer
from service.settings import Settings

_HEADER_LENGTH = "Inference-Header-Content-Length"
_INPUTS = ("user_id", "candidates")


class TensorParameters(Struct):
    """Where a tensor's data is: so many bytes behind the JSON, in the order of the inputs."""

    binary_data_size: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class InputTensor(Struct, forbid_unknown_fields=True):
    """One input; `data` in JSON, flat or nested as the shape says, or binary."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=8)]
    datatype: str
    data: list[Any] | UnsetType = UNSET
    parameters: TensorParameters = msgspec.field(default_factory=TensorParameters)


class OutputParameters(Struct):
    """How an output is wanted."""

    binary_data: bool = False


class RequestedOutput(Struct):
    """One output that is asked for."""

    name: str
    parameters: OutputParameters = msgspec.field(default_factory=OutputParameters)


class InferParameters(Struct, forbid_unknown_fields=True):
    """What the request as a whole is given."""

    binary_data_output: bool = False
    timestamp: int | UnsetType = UNSET
    budget_ms: int | UnsetType = UNSET
    timeout: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class InferRequest(Struct):
    """POST .../infer."""

    inputs: list[InputTensor]
    id: str | UnsetType = UNSET
    outputs: list[RequestedOutput] = []
    parameters: InferParameters = msgspec.field(default_factory=InferParameters)


class OutputTensor(Struct, omit_defaults=True):
    """One output; `data` in JSON, or binary behind it."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | UnsetType = UNSET
    data: list[float] | UnsetType = UNSET


class InferAnswer(Struct, omit_defaults=True):
    """Answer of POST .../infer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


def open_inference_router(
    settings: Settings,
    callers: Callers,
    scorer: Scorer,
    models: Models,
    metrics: Metrics,
    clock: Callable[[], float],
    draining: Callable[[], bool],
) -> APIRouter:
    """The routes below /v2. Args: `clock` unix seconds; `draining` whether the process is about to stop."""
    router = APIRouter(include_in_schema=False)
    _health(router, callers, draining)
    _metadata(router, callers, models, draining)
    _inference(router, settings, callers, scorer, models, metrics, clock)
    return router


def _health(router: APIRouter, callers: Callers, draining: Callable[[], bool]) -> None:
    @router.get("/v2", response_model=None)
    async def server_metadata(request: Request) -> Response:
        callers.caller(request, "score")
        version = importlib.metadata.version("dare-serving")
        return _json({"name": "dare-serving", "version": version, "extensions": ["binary_tensor_data"]})

    @router.get("/v2/health/live", response_model=None)
    async def live() -> Response:
        return _json({"live": True})

    @router.get("/v2/health/ready", response_model=None)
    async def ready() -> Response:
        return _ready(draining)


def _metadata(router: APIRouter, callers: Callers, models: Models, draining: Callable[[], bool]) -> None:
    @router.get("/v2/models/{model}", response_model=None)
    @router.get("/v2/models/{model}/versions/{version}", response_model=None)
    async def model_metadata(request: Request, model: str, version: str | None = None) -> Response:
        callers.caller(request, "score")
        _check_served(models, model, version)
        inputs = [{"name": name, "datatype": "BYTES", "shape": [1 if name == "user_id" else -1]} for name in _INPUTS]
        outputs = [{"name": "scores", "datatype": "FP32", "shape": [-1]}]
        return _json({"name": model, "versions": models.served_versions(), "platform": "dare", "inputs": inputs, "outputs": outputs})

    @router.get("/v2/models/{model}/ready", response_model=None)
    @router.get("/v2/models/{model}/versions/{version}/ready", response_model=None)
    async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
        callers.caller(request, "score")
        _check_served(models, model, version)
        return _ready(draining)


def _inference(
    router: APIRouter,
    settings: Settings,
    callers: Callers,
    scorer: Scorer,
    models: Models,
    metrics: Metrics,
    clock: Callable[[], float],
) -> None:
    @router.post("/v2/models/{model}/infer", response_model=None)
    @router.post("/v2/models/{model}/versions/{version}/infer", response_model=None)
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        call = Call.of(request, callers.caller(request, "score"), clock())
        _check_served(models, model, version)
        body = await read_body(request, settings)
        wanted, binary = _split(body, request.headers.get(_HEADER_LENGTH))
        answer = await scorer.score(_score_request(wanted, binary, version), call)
        times = call.stages.times(call.started)
        metrics.observe(times)
        shape = next(tensor.shape for tensor in wanted.inputs if tensor.name == "candidates")
        response = _infer_answer(wanted, model, answer.model_version, shape, np.array(answer.scores, np.float32))
        response.headers["Server-Timing"] = ", ".join(f"{name};dur={value:.3f}" for name, value in times.items())
        return response


def _check_served(models: Models, model: str, version: str | None) -> None:
    """Raises: Problem 404 for another model, and for a version that does not answer."""
    name = models.name
    if model != name:
        raise Problem(404, f"no model {shown(model)}, only {name!r}")
    served = models.served_versions()
    if version is not None and version not in served:
        raise Problem(404, f"version {shown(version)} of {name!r} is not served; {', '.join(served)} is")


def _ready(draining: Callable[[], bool]) -> Response:
    """Raises: Problem 503 while the process is about to stop."""
    if draining():
        raise Problem(503, "the server is about to stop", retry_after_s=1, kind="draining")
    return _json({"ready": True})


def _split(body: bytes, header_length: str | None) -> tuple[InferRequest, memoryview]:
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 12 and int(header_length) <= length):
            raise Problem(400, f"{_HEADER_LENGTH} must be a length within the body's {length} bytes, got {shown(header_length)}")
        length = int(header_length)
    return decode(InferRequest, body[:length]), memoryview(body)[length:]


def _score_request(wanted: InferRequest, binary: memoryview, version: str | None) -> ScoreRequest:
    """What the tensors ask for. Raises: Problem 422 naming the tensor."""
    given = dict[str, list[Any]]()
    for place, tensor in enumerate(wanted.inputs):
        pointer = f"/inputs/{place}"
        if tensor.name not in _INPUTS or tensor.name in given:
            raise Problem(422, f"the inputs are user_id and candidates, once each, got {shown(tensor.name)}", pointer=f"{pointer}/name")
        if tensor.datatype != "BYTES":
            raise Problem(422, f"{tensor.name} has datatype BYTES, got {shown(tensor.datatype)}", pointer=f"{pointer}/datatype")
        values, binary = _values(tensor, binary, pointer)
        if len(values) != math.prod(tensor.shape) or not 1 <= len(tensor.shape) <= 2 or tensor.shape[:-1] not in ([], [1]):
            raise Problem(
                422, f"{tensor.name} has shape [N] or [1, N]; got {tensor.shape} for {len(values)} values", pointer=f"{pointer}/shape"
            )
        given[tensor.name] = values
    missing = [name for name in _INPUTS if name not in given]
    if missing:
        raise Problem(422, f"the input {missing[0]} is missing", pointer="/inputs")
    if len(binary):
        raise Problem(422, f"{len(binary)} bytes are behind the last binary tensor", pointer="/inputs")
    if len(given["user_id"]) != 1:
        raise Problem(422, f"user_id holds one id, got {len(given['user_id'])}", pointer="/inputs")
    if any(output.name != "scores" for output in wanted.outputs):
        raise Problem(422, f"the output is scores, got {shown([output.name for output in wanted.outputs])}", pointer="/outputs")
    asked: dict[str, Any] = {"user_id": given["user_id"][0], "candidates": given["candidates"], "model_version": version}
    parameters = wanted.parameters
    if parameters.timestamp is not UNSET:
        asked["timestamp"] = parameters.timestamp
    if parameters.budget_ms is not UNSET:
        asked["budget_ms"] = parameters.budget_ms
    elif parameters.timeout is not UNSET:
        asked["budget_ms"] = math.ceil(parameters.timeout / 1000)
    try:
        return msgspec.convert(asked, ScoreRequest)
    except msgspec.ValidationError as error:
        raise wire_problem(error, asked) from None


def _values(tensor: InputTensor, binary: memoryview, pointer: str) -> tuple[list[Any], memoryview]:
    """The tensor's ids, and what is left of the binary data."""
    size = tensor.parameters.binary_data_size
    if (size is UNSET) == (tensor.data is UNSET):
        raise Problem(422, f"{tensor.name} has either data or binary_data_size", pointer=pointer)
    if tensor.data is not UNSET:
        values = tensor.data
        return (values[0] if len(tensor.shape) == 2 and len(values) == 1 and isinstance(values[0], list) else values), binary
    assert size is not UNSET
    if size > len(binary):
        raise Problem(422, f"{tensor.name} declares {size} bytes, {len(binary)} are left", pointer=pointer)
    values, at, raw = [], 0, bytes(binary[:size])
    try:
        while at < size:
            (length,) = struct.unpack_from("<I", raw, at)
            if at + 4 + length > size:
                raise Problem(422, f"{tensor.name}: an element of {length} bytes does not fit", pointer=pointer)
            values.append(raw[at + 4 : at + 4 + length].decode())
            at += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise Problem(422, f"{tensor.name}: {error}", pointer=pointer) from None
    return values, binary[size:]


def _infer_answer(wanted: InferRequest, model: str, version: str, shape: list[int], scores_N: np.ndarray) -> Response:
    binary = wanted.outputs[0].parameters.binary_data if wanted.outputs else wanted.parameters.binary_data_output
    output = OutputTensor("scores", "FP32", shape)
    if binary:
        output.parameters = {"binary_data_size": scores_N.nbytes}
    else:
        output.data = scores_N.tolist()
    head = msgspec.json.encode(InferAnswer(model, version, [output], wanted.id))
    if not binary:
        return Response(head, media_type="application/json")
    content = head + scores_N.astype("<f4").tobytes()
    return Response(content, headers={_HEADER_LENGTH: str(len(head))}, media_type="application/octet-stream")


def _json(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
