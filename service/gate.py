"""Refusals before a request is read: while admission would refuse it anyway, it costs neither its body, nor a task, nor a route."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import msgspec
from prometheus_client import Counter

from service.admission import Admission
from service.errors import Problem, problem_document
from service.metrics import Metrics
from service.request_context import given_id

Headers = list[tuple[bytes, bytes]]


class Gate:
    """Answers in the place of routes whose admission is full.

    Args: `admissions` by path, as sent: what a request to that path has to pass.
    """

    def __init__(self, admissions: Mapping[bytes, Admission], metrics: Metrics) -> None:
        self._admissions, self._requests = dict(admissions), metrics.requests
        # Counted as the routes count theirs; a label's child is looked up at the first refusal, not in every one.
        self._counted = dict[bytes, Counter]()

    def refusal(self, method: bytes, url: bytes, headers: Headers) -> bytes | None:
        """The whole answer, without its status line's connection header, to a request that is refused; None for one to be read.

        Args: `url` as sent; `headers` with lower-case names.
        """
        admission = self._admissions.get(url) if method == b"POST" else None
        problem = None if admission is None else admission.refusal()
        if problem is None:
            return None
        counted = self._counted.get(url)
        if counted is None:
            counted = self._counted[url] = self._requests.labels(url.decode(), "503")
        counted.inc()
        return _answer(problem, given_id(headers) or secrets.token_hex(16))


def _answer(problem: Problem, request_id: str) -> bytes:
    content = msgspec.json.encode(problem_document(problem, request_id))
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {len(content)}\r\n"
        f"retry-after: {problem.retry_after_s}\r\nx-request-id: {request_id}\r\n\r\n"
    )
    return head.encode() + content
