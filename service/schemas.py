"""What travels over the wire (docs/http-api.md), and how a body becomes one of these or a problem that names the value."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from service.errors import Problem, shown, shown_reason

MAX_TIMESTAMP = 2**32 - 1
MAX_EXPLAIN = 1024

MAX_LISTED = 1000
"""Behaviors on one page of GET /v1/users/{user_id}/behaviors."""
ID_PATTERN = r"^[^\x00-\x1f]+$"
"""What `id_text` takes, for the OpenAPI document: no control characters."""

Text = Annotated[str, Meta(min_length=1, max_length=128, extra_json_schema={"pattern": ID_PATTERN})]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Text | Number
Timestamp = Annotated[int, Meta(ge=0, le=MAX_TIMESTAMP, description="unix seconds")]


class Behavior(Struct, forbid_unknown_fields=True):
    """One inline behavior."""

    item_id: Id
    timestamp: Timestamp


class PostedBehavior(Struct, forbid_unknown_fields=True):
    """One behavior to store; an `event_id` makes a retry safe."""

    user_id: Id
    item_id: Id
    timestamp: Timestamp
    event_id: Id | None = None


class ScoreRequest(Struct, forbid_unknown_fields=True):
    """POST /v1/score."""

    candidates: Annotated[list[Id], Meta(min_length=1)]
    user_id: Id | UnsetType = UNSET
    behaviors: list[Behavior] | UnsetType = UNSET
    timestamp: Timestamp | None = None
    explain: Annotated[int, Meta(ge=0, le=MAX_EXPLAIN)] = 0
    budget_ms: Annotated[int, Meta(ge=1, le=600_000)] | None = None
    model_version: Text | None = None


class BatchRequest(Struct, forbid_unknown_fields=True):
    """POST /v1/score:batch. Each request is decoded on its own, so that a bad one does not fail the others."""

    requests: Annotated[list[Raw], Meta(min_length=1)]


class RecommendRequest(Struct, forbid_unknown_fields=True):
    """POST /v1/recommend."""

    user_id: Id
    limit: Annotated[int, Meta(ge=1, le=500)] = 20
    exclude_seen: bool = False
    pool: Annotated[int, Meta(ge=1, le=4096)] = 500
    timestamp: Timestamp | None = None
    explain: Annotated[int, Meta(ge=0, le=MAX_EXPLAIN)] = 0
    budget_ms: Annotated[int, Meta(ge=1, le=600_000)] | None = None
    model_version: Text | None = None


class BehaviorsRequest(Struct, forbid_unknown_fields=True):
    """POST /v1/behaviors."""

    behaviors: Annotated[list[PostedBehavior], Meta(min_length=1)]


class Explanation(Struct):
    """A behavior that search kept; `item_id` null with `item_hash` for an item the artifact does not know."""

    item_id: str | None
    item_hash: str
    timestamp: int
    recency: int
    score: float
    weight: float
    text: dict[str, str]


class ScoreAnswer(Struct, omit_defaults=True):
    """Answer of POST /v1/score. The field defaults exist for `explanations` alone, which is left out unless asked for."""

    request_id: str
    model_version: str
    scores: list[float]
    sequence_length: int
    sequence_length_used: int
    unknown_candidates: list[int]
    degraded: bool
    degraded_reason: str | None
    explanations: list[list[Explanation]] | UnsetType = UNSET


class BatchedAnswer(Struct, omit_defaults=True):
    """One answer of a batch: `status` and either `answer` or `problem`, a problem document."""

    status: int
    answer: ScoreAnswer | UnsetType = UNSET
    problem: dict[str, Any] | UnsetType = UNSET


class BatchAnswer(Struct):
    """Answer of POST /v1/score:batch, in the order of the requests."""

    request_id: str
    answers: list[BatchedAnswer]


class RecommendedItem(Struct, omit_defaults=True):
    """One recommended item."""

    item_id: str
    score: float
    text: dict[str, str]
    explanation: list[Explanation] | UnsetType = UNSET


class RecommendAnswer(Struct):
    """Answer of POST /v1/recommend, best first; `pool` candidates were scored, `unknown_candidates` are positions in `items`."""

    request_id: str
    model_version: str
    items: list[RecommendedItem]
    pool: int
    unknown_candidates: list[int]
    sequence_length: int
    sequence_length_used: int
    degraded: bool
    degraded_reason: str | None


class BehaviorsAnswer(Struct):
    """Answer of POST /v1/behaviors."""

    request_id: str
    accepted: int
    duplicates: int


class StoredBehavior(Struct):
    """One stored behavior as shown to a caller."""

    item_id: str | None
    item_hash: str
    timestamp: int
    text: dict[str, str]


class UserBehaviorsAnswer(Struct):
    """Answer of GET /v1/users/{user_id}/behaviors, newest first."""

    request_id: str
    user_id: str
    sequence_length: int
    behaviors: list[StoredBehavior]


class DeleteAnswer(Struct):
    """Answer of DELETE /v1/users/{user_id}: how many behaviors were erased."""

    request_id: str
    erased: int


class Model(Struct):
    """One model version in the artifacts directory; `active` is the one that answers, `roles` any of active, canary, shadow."""

    version: str
    active: bool
    roles: list[str]


class ModelsAnswer(Struct):
    """Answer of GET /v1/models and of a change of the active model.

    `previous` is what a rollback activates; `as_of` is the newest time in the active model's training data, `metrics` its evaluation.
    """

    request_id: str
    models: list[Model]
    previous: str | None
    as_of: int
    metrics: dict[str, Any]


WIRE = [
    ScoreRequest,
    ScoreAnswer,
    BatchRequest,
    BatchAnswer,
    RecommendRequest,
    RecommendAnswer,
    BehaviorsRequest,
    BehaviorsAnswer,
    UserBehaviorsAnswer,
    DeleteAnswer,
    ModelsAnswer,
]

Wire = TypeVar("Wire", bound=Struct)
_DECODERS = dict[type[Struct], msgspec.json.Decoder[Any]]()


def decode(kind: type[Wire], body: bytes | Raw) -> Wire:
    """Decode a body. Raises: Problem 400 for what is not JSON, 422 naming pointer and value for what is not a `kind`."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        value: Wire = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), body) from None
    except msgspec.DecodeError as error:
        raise Problem(400, f"the body is not JSON: {shown_reason(str(error))}", kind="not-json") from None
    except (RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body is not usable JSON: {type(error).__name__}", kind="not-json") from None
    return value


def id_text(value: str | int, pointer: str) -> str:
    """An id as text. Raises: Problem 422 for control characters and lone surrogates."""
    text = value if isinstance(value, str) else str(value)
    if not text.isprintable() and any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in text):
        raise Problem(422, f"ids must not hold control characters or lone surrogates, got {shown(text)}", pointer=pointer)
    return text


def id_texts(values: list[str | int], pointer: str, field: str = "") -> list[str]:
    """Many ids as text; `pointer/PLACE` and `field` point at each of them. Raises: Problem 422 naming the first bad one."""
    texts = cast(list[str], values)
    try:
        together = "".join(texts)
    except TypeError:  # there are integers among them
        texts = [str(value) for value in values]
        together = "".join(texts)
    if not together.isprintable():
        for place, text in enumerate(texts):
            id_text(text, f"{pointer}/{place}{field}")
    return texts


def _invalid(message: str, body: bytes | Raw) -> Problem:
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        value = None
    return _located(message, value)


def wire_problem(error: msgspec.ValidationError, value: Any) -> Problem:
    """The problem of a value that could not be converted to a wire struct: 422 naming pointer and value."""
    return _located(str(error), value)


def _located(message: str, value: Any) -> Problem:
    reason, _, path = message.rpartition(" - at `$") if " - at `$" in message else (message, "", "")
    reason = shown_reason(reason)
    pointer = "".join(f"/{part}" for part in re.findall(r"[^.\[\]`]+", path))
    detail = reason
    try:
        for part in pointer.split("/")[1:]:
            value = value[int(part)] if isinstance(value, list) else value[part]
        # A missing or unknown field is named by the reason; the object around it would only hide it.
        if not reason.startswith("Object "):
            detail = f"{reason}; got {shown(value)}"
    except (LookupError, ValueError, TypeError):
        # The value cannot be shown (a pointer such as /... for a mapping key): the reason and the pointer still name it.
        detail = reason
    return Problem(422, detail, pointer=pointer)
