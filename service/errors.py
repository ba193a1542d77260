"""Every error a caller can see, as RFC 9457 `application/problem+json`."""

from __future__ import annotations

import http
from typing import Any

import msgspec
from starlette.responses import Response

_SHOWN = 100
_SHOWN_REASON = 300


class Problem(Exception):
    """An answer that is not 2xx.

    Args: `status` HTTP status; `detail` a sentence that names the value; `pointer` JSON pointer of the bad field, for invalid input;
    `retry_after_s` for 429 and 503; `kind` the last part of `type`, by default `invalid-field` for 422 and the status's name for others.
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

    @property
    def title(self) -> str:
        """The phrase of the status."""
        return http.HTTPStatus(self.status).phrase


def problem_document(problem: Problem, request_id: str) -> dict[str, Any]:
    """The problem as a JSON object."""
    kind = problem.kind or ("invalid-field" if problem.status == 422 else problem.title.lower().replace(" ", "-"))
    content: dict[str, Any] = {
        "type": f"urn:dare:problem:{kind}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id,
    }
    if problem.retry_after_s is not None:
        content["retry_after_s"] = problem.retry_after_s
    if problem.pointer is not None:
        content["errors"] = [{"pointer": problem.pointer, "message": problem.detail}]
    return content


def problem_response(problem: Problem, request_id: str, path: str = "") -> Response:
    """The problem document as a response; below /v2 with the member `error` that clients of the Open Inference Protocol read."""
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    document = problem_document(problem, request_id)
    if path.startswith("/v2"):
        document["error"] = problem.detail
    content = msgspec.json.encode(document)
    return Response(content, problem.status, headers, media_type="application/problem+json")


def shown(value: object) -> str:
    """A value for an error message: its JSON, shortened, always printable ASCII."""
    try:
        text = msgspec.json.encode(value).decode("ascii", "backslashreplace")
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)
    return _shortened(text, _SHOWN)


def shown_reason(reason: str) -> str:
    """A library's message, which may quote the caller at any length, shortened for an answer."""
    return _shortened(reason, _SHOWN_REASON)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
