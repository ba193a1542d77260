"""Every error a caller can see, as RFC 9457 `application/problem+json`."""

from __future__ import annotations

import http
from typing import Any

import msgspec
from starlette.responses import Response

_SHOWN = 100


class Problem(Exception):
    """An answer that is not 2xx.

    Args: `status` HTTP status; `detail` a sentence that names the value; `pointer` JSON pointer of the bad field, for invalid input;
    `retry_after_s` for 429 and 503; `kind` the last part of `type`.
    """

    def __init__(
        self, status: int, detail: str, *, pointer: str | None = None, retry_after_s: int | None = None, kind: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.pointer = pointer
        self.retry_after_s = retry_after_s
        self.kind = kind


def problem_response(problem: Problem, request_id: str) -> Response:
    """The problem document as a response."""
    title = http.HTTPStatus(problem.status).phrase
    content: dict[str, Any] = {
        "type": f"urn:dare:problem:{problem.kind or title.lower().replace(' ', '-')}",
        "title": title,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id,
    }
    if problem.pointer is not None:
        content["errors"] = [{"pointer": problem.pointer, "message": problem.detail}]
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    return Response(msgspec.json.encode(content), problem.status, headers, media_type="application/problem+json")


def shown(value: object) -> str:
    """A value for an error message: its JSON, shortened, always printable ASCII."""
    try:
        text = msgspec.json.encode(value).decode("ascii", "backslashreplace")
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
