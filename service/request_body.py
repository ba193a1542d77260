"""A request's body, within limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from service.errors import Problem, shown
from service.settings import Settings

_PATIENCE = 4
"""Times the largest body that is read, and dropped, of one that is refused for its size: a caller who writes all before it reads would lose
the answer where the connection closes meanwhile."""


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body. Raises: Problem 413 too large, 415 compressed, 408 too slow, 400 for a client that went away."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Problem(415, f"content-encoding {shown(encoding)} is not accepted; send plain JSON")
    limit = settings.max_body_bytes
    length = request.headers.get("content-length", "0")
    declared = int(length) if length.isdecimal() else 0
    if declared > limit and "expect" in request.headers:  # the caller waits for leave to send
        raise Problem(413, f"the body has {declared} bytes, at most {limit} are accepted")
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if max(size, declared) <= limit:
                    parts.append(part)
                elif size > _PATIENCE * limit:
                    break
    except TimeoutError:
        if max(size, declared) <= limit:
            raise Problem(408, f"the body did not arrive within {settings.body_timeout_s} s") from None
    except ClientDisconnect:
        raise Problem(400, "the client went away while sending") from None
    if declared > limit:
        raise Problem(413, f"the body has {declared} bytes, at most {limit} are accepted")
    if size > limit:
        raise Problem(413, f"the body is larger than the {limit} bytes accepted")
    return b"".join(parts)
